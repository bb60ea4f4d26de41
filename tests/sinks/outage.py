"""One sink is out for minutes under a steady load, a healthy one beside it: how fast, how large.

    python -m tests.sinks.outage postgresql --minutes 10 --rate 3000

It warms up for a tenth of the time, kills the sink's service for the whole of it, starts it again,
and waits until the sink has everything while the load goes on. It ends with 1 if an acknowledged
event is missing or doubled, or came later than --delay-s-max to the healthy sink.
"""

import argparse
import asyncio
import functools
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.needs import skip_or_fail
from tests.services.targets import TARGETS, running, start, target_class
from tests.sinks.rig import Rig

LOOK_INTERVAL_S = 0.05
LINE_INTERVAL_S = 10.0
CAUGHT_UP_BYTES = 1 << 20
CATCH_UP_TIMEOUT_S = 1_800.0
_MIB = 1 << 20

say = functools.partial(print, flush=True)


@dataclass
class Report:
    """The figures of one run; sizes in bytes, times in seconds, speeds in events a second."""

    kind: str
    rate: float = 0.0
    outage_s: float = 0.0
    backlog_bytes: int = 0
    disk_bytes_max: int = 0
    catch_up_s: float = 0.0
    catch_up_events_per_s: float = 0.0
    rss_bytes_before: dict[str, int] = field(default_factory=dict)
    rss_bytes_max: dict[str, int] = field(default_factory=dict)
    delay_s_median: float = 0.0
    delay_s_p99: float = 0.0
    delay_s_max: float = 0.0
    acknowledged: int = 0
    copies: int = 0

    def lines(self) -> list[str]:
        memory = ", ".join(
            f"{name} {self.rss_bytes_before.get(name, 0) // _MIB} → {size // _MIB}"
            for name, size in self.rss_bytes_max.items()
        )
        return [
            f"{self.kind}: out for {self.outage_s:.0f} s at {self.rate:,.0f} events/s acknowledged",
            f"behind by {self.backlog_bytes / _MIB:,.0f} MiB at the end of the outage",
            f"journal: at most {self.disk_bytes_max / _MIB:,.0f} MiB on disk",
            f"caught up within {self.catch_up_s:.1f} s under the same load",
            f"catch-up speed: {self.catch_up_events_per_s:,.0f} events/s to the sink",
            f"healthy sink: half of the events within {self.delay_s_median:.2f} s after their 200",
            f"healthy sink: 99 % within {self.delay_s_p99:.2f} s, all in {self.delay_s_max:.2f} s",
            f"memory (MiB, before → most): {memory}",
            f"{self.acknowledged:,} acknowledged, none lost, {self.copies:,} twice",
        ]


async def run(rig: Rig, *, outage_s: float) -> Report:
    """Let the sink of *rig* be out for *outage_s*; check what arrived and return the figures.

    Raises:
        AssertionError: An acknowledged event is missing, or there twice where that must not be.

    """
    report = Report(rig.target.kind)
    watch = _Watch(rig, report)
    async with rig.serving():
        watching = asyncio.create_task(watch.run())
        try:
            await rig.flowing()
            await asyncio.sleep(outage_s / 10)
            report.rss_bytes_before = rig.rss()
            before, began = rig.stream.ledger.acknowledged, time.monotonic()
            await asyncio.to_thread(rig.target.service.kill)
            await asyncio.sleep(outage_s)
            report.outage_s = time.monotonic() - began
            report.rate = (rig.stream.ledger.acknowledged - before) / report.outage_s
            report.backlog_bytes = int(await rig.metric("lag_bytes"))
            await _catch_up(rig, report)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    outcome = await asyncio.to_thread(rig.outcome)
    delays = sorted(rig.healthy.delays_s)
    report.delay_s_median = delays[len(delays) // 2]
    report.delay_s_p99 = delays[len(delays) * 99 // 100]
    report.delay_s_max = delays[-1]
    report.acknowledged, report.copies = outcome.acknowledged, outcome.copies
    return report


async def _catch_up(rig: Rig, report: Report) -> None:
    """Start the service again and wait until the sink is behind by no more than a moment."""
    await asyncio.to_thread(start, rig.target)
    delivered, began = await rig.metric("events"), time.monotonic()
    async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
        while await rig.metric("lag_bytes") > CAUGHT_UP_BYTES:  # noqa: ASYNC110 - a metric.
            await asyncio.sleep(LOOK_INTERVAL_S)
    report.catch_up_s = time.monotonic() - began
    report.catch_up_events_per_s = (await rig.metric("events") - delivered) / report.catch_up_s


class _Watch:
    """Looks at the healthy sink, the disk and the memory, and says a line now and then."""

    def __init__(self, rig: Rig, report: Report) -> None:
        self._rig, self._report = rig, report

    async def run(self) -> None:
        began = next_line = time.monotonic()
        looked_from, acknowledged = began, 0
        while True:
            await asyncio.to_thread(self._look)
            now, ledger = time.monotonic(), self._rig.stream.ledger
            if now >= next_line:
                delays = self._rig.healthy.delays_s
                rate = (ledger.acknowledged - acknowledged) / max(now - looked_from, 1e-9)
                looked_from, acknowledged = now, ledger.acknowledged
                next_line += LINE_INTERVAL_S
                say(
                    f"{now - began:5.0f} s: {rate:6,.0f} events/s, behind "
                    f"{await self._rig.metric('lag_bytes') / _MIB:,.0f} MiB, healthy sink within "
                    f"{max(delays, default=0.0):.2f} s"
                )
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _look(self) -> None:
        self._rig.healthy.look()
        report = self._report
        journal = self._rig.data_dir / "journal"
        report.disk_bytes_max = max(report.disk_bytes_max, _size_of(journal))
        for name, size in self._rig.rss().items():
            report.rss_bytes_max[name] = max(report.rss_bytes_max.get(name, 0), size)


def _size_of(folder: Path) -> int:
    size = 0
    for path in folder.glob("**/*"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:
            continue
    return size


def run_on(kind: str, folder: Path, *, outage_s: float, rate: float) -> Report:
    """Run the service of *kind* and a server for one outage."""
    found = target_class(kind)
    if (missing := found.installed()) is not None:
        skip_or_fail(missing)
    target = found(folder / "service")
    with running(target) as proxy:
        flags = ("--delivery=process",)
        rig = Rig(target, proxy, folder, seed=1, rate=rate, flags=flags)
        return asyncio.run(run(rig, outage_s=outage_s))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = [kind for kind in TARGETS if kind != "file"]
    parser.add_argument("sink", choices=kinds)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=3_000.0, help="events/s")
    parser.add_argument("--delay-s-max", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segsrv-outage-") as folder:
        report = run_on(
            options.sink, Path(folder), outage_s=options.minutes * 60, rate=options.rate
        )
    say("\n".join(report.lines()))
    if report.delay_s_max > options.delay_s_max:
        say(f"the healthy sink was {report.delay_s_max:.2f} s late, allowed {options.delay_s_max}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
