"""All sinks on one server under mixed load, with random kills of sinks and server.

    python -m tests.sinks.six --minutes 10 --seed 1

In the end every sink has the same events, all that were acknowledged among them, and only those
that deliver at least once have any twice. `six` are file, Kafka, PostgreSQL, ClickHouse, S3 and
webhooks; Kafka takes part in both of its modes.
"""

import argparse
import asyncio
import contextlib
import functools
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.faults.crashes import kill_all
from tests.faults.kill_rounds import kill_one
from tests.server_process import ServerProcess
from tests.services.proxy import Proxy
from tests.services.target import Target
from tests.services.targets import TARGETS, running, start, target_class
from tests.sinks.stream import Stream
from tests.site import Site

PAUSE_S_MAX = 4.0
"""Between two faults, and as long as one lasts."""
SETTLE_TIMEOUT_S = 300.0
POLL_INTERVAL_S = 0.1
SERVER_FAULTS = ("kill the server", "kill delivery", "kill a worker")
SINK_FAULTS = ("kill", "pause", "cut", "cut in mid-request", "drop answers")

say = functools.partial(print, flush=True)


class Fleet:
    """One server with a sink of each target, all of which may break at once."""

    def __init__(
        self,
        targets: dict[str, tuple[Target, Proxy | None]],
        folder: Path,
        *,
        rate: float,
        seed: int,
    ) -> None:
        self.stream = Stream(rate=rate, seed=seed, is_mixed=True)
        self.happened: Counter[str] = Counter()
        self._targets = targets
        self._folder = folder
        self._chance = random.Random(seed)
        self._server: ServerProcess | None = None

    async def run(self, duration_s: float) -> None:
        """Send, and break one thing after the other, for *duration_s*; then mend and deliver all.

        Raises:
            AssertionError: The server ended by itself, or something was not delivered in time.

        """
        await self._start()
        try:
            async with self.stream.running(self._port):
                deadline = time.monotonic() + duration_s
                while time.monotonic() < deadline:
                    await asyncio.sleep(self._chance.uniform(0.2, PAUSE_S_MAX))
                    await self._break_something()
            await self._settle()
            code = await asyncio.to_thread(self._running.stop)
            assert code == 0, self._running.stderr[-4_000:]
        finally:
            if self._running.exit_code is None:
                await asyncio.to_thread(kill_all, self._running)

    def check(self) -> dict[str, int]:
        """Return how many copies too many each sink has, once all is delivered.

        Raises:
            AssertionError: A sink lacks an acknowledged event or one that another sink has, or has
                one twice that may not.

        """
        ledger = self.stream.ledger
        counts = {
            kind: ledger.copies(target.ids()) for kind, (target, _proxy) in self._targets.items()
        }
        acknowledged = ledger.numbers()
        assert acknowledged, "no event was acknowledged"
        copies = {}
        for kind, found in counts.items():
            lost = sum(not found[number] for number in acknowledged)
            assert not lost, f"{kind}: {lost} of {len(acknowledged)} acknowledged events are lost"
            copies[kind] = sum(count - 1 for count in found if count)
            if self._targets[kind][0].is_exactly_once:
                assert not copies[kind], f"{kind}: {copies[kind]} events once too often"
        distinct = {bytes(map(bool, found)) for found in counts.values()}
        assert len(distinct) == 1, "sinks have different events"
        return copies

    @property
    def _running(self) -> ServerProcess:
        assert self._server is not None, "the server was started"
        return self._server

    def _port(self) -> int:
        return self._running.port

    async def _start(self) -> None:
        config = self._folder / "segsrv.toml"
        environ: dict[str, str] = {}
        tables = []
        for target, proxy in self._targets.values():
            tables.append(target.table(proxy.port if proxy is not None else 0))
            environ |= target.environ()
        config.write_text("\n".join(tables))
        self._server = ServerProcess(
            self._folder / "data", f"--config={config}", "--workers=2", environ=environ
        )
        await asyncio.to_thread(self._server.start)

    async def _break_something(self) -> None:
        server = self._running
        assert server.exit_code is None, server.stderr[-4_000:]
        kinds = [kind for kind, (_target, proxy) in self._targets.items() if proxy is not None]
        if self._chance.random() < 1 / (len(kinds) / 2 + 1):
            what = self._chance.choice(SERVER_FAULTS)
            self.happened[what] += 1
            if what == "kill the server":
                await asyncio.to_thread(kill_all, server)
                await self._start()
            else:
                kill_one(server, what.removeprefix("kill ").removeprefix("a "), self._chance)
            return
        kind = self._chance.choice(kinds)
        what = self._chance.choice(SINK_FAULTS)
        self.happened[f"{kind}: {what}"] += 1
        async with self._broken(kind, what):
            await asyncio.sleep(self._chance.uniform(0.2, PAUSE_S_MAX))

    @contextlib.asynccontextmanager
    async def _broken(self, kind: str, what: str) -> AsyncIterator[None]:
        target, proxy = self._targets[kind]
        assert target.service is not None
        assert proxy is not None
        begin: dict[str, Callable[[], object]] = {
            "kill": target.service.kill,
            "pause": target.service.pause,
            "cut": proxy.cut,
            "cut in mid-request": lambda: proxy.cut_after(self._chance.randrange(1, 50_000)),
            "drop answers": lambda: proxy.drop_answers(mark=target.commit_mark),
        }
        end: dict[str, Callable[[], object]] = {
            "kill": lambda: start(target),
            "pause": target.service.resume,
        }
        await asyncio.to_thread(begin[what])
        try:
            yield
        finally:
            await asyncio.to_thread(end.get(what, proxy.heal))

    async def _settle(self) -> None:
        """Wait until every sink has everything."""
        site = Site(self._running)
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            while True:
                # A killed process of it is just being started again, or still has to tell.
                with contextlib.suppress(OSError):
                    up = await asyncio.to_thread(site.metric, "segsrv_sink_up")
                    lag = await asyncio.to_thread(site.metric, "segsrv_sink_lag_bytes")
                    if up == len(self._targets) and not lag:
                        return
                await asyncio.sleep(POLL_INTERVAL_S)


def run_all(
    kinds: list[str], folder: Path, *, duration_s: float, rate: float, seed: int
) -> tuple[Fleet, dict[str, int]]:
    """Run the services of *kinds* and a server for *duration_s*; return what happened."""
    with contextlib.ExitStack() as stack:
        targets: dict[str, tuple[Target, Proxy | None]] = {}
        for kind in kinds:
            target = target_class(kind)(folder / kind)
            targets[kind] = (target, stack.enter_context(running(target)))
        fleet = Fleet(targets, folder, rate=rate, seed=seed)
        asyncio.run(fleet.run(duration_s))
        return fleet, fleet.check()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=1_000.0, help="events/s")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2)))
    parser.add_argument("--sinks", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    options = parser.parse_args()
    for kind in options.sinks:
        if (missing := target_class(kind).installed()) is not None:
            parser.error(missing)
    say(f"seed {options.seed}, {len(options.sinks)} sinks, {options.minutes:g} minutes")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="segsrv-six-") as folder:
        fleet, copies = run_all(
            options.sinks,
            Path(folder),
            duration_s=options.minutes * 60,
            rate=options.rate,
            seed=options.seed,
        )
    for what, count in sorted(fleet.happened.items()):
        say(f"{count:4} {what}")
    say(f"answers: {dict(sorted(fleet.stream.answers.items()))}")
    say(f"{fleet.stream.ledger.acknowledged:,} acknowledged, the same events everywhere; twice:")
    say(", ".join(f"{kind} {count:,}" for kind, count in copies.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
