"""Latency at a given share of what the server can take, with the disk's own beside it.

    python bench/latency.py [--share 0.25 --share 0.5 --share 0.75]

How much it can take is measured first, by 64 connections that send without a pause. Then requests
arrive at a fixed rate whatever the server does (`open_loop.py`), and a probe syncs 4 KiB of another
file on the same disk a hundred times a second. A stall is a stretch of time in which requests took
longer than 50 ms; it is the disk's if syncs of the probe that took 10 ms or more cover half of it,
the generator's if that stood still for half of it itself, else the server's.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contenders
import load
import locations
import machine
import orjson
import servers
import stored
import trial

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBE_END_S_MAX = 30.0
COMMITS = re.compile(
    rb'^segsrv_commit_seconds_bucket\{.*?le="([\d.]+|\+Inf)".*?\} ([\d.e+]+)', re.MULTILINE
)
COLUMNS = (
    "load",
    "of saturation",
    "requests/s (asked for)",
    "p50 / p99 / p99.9 ms",
    "p99 ÷ p50",
    "longest ms",
    "generator late, p99 / longest ms",
    "disk's sync, p50 / p99 / longest ms",
    "stalls over 50 ms: server's, disk's, generator's",
    "commits over 50 ms",
)


@dataclass(slots=True, kw_only=True)
class Latency:
    """One run at a fixed rate: *asked* requests a second, of which *rate* were answered."""

    round: int
    shape: str
    share: float
    asked: float
    rate: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    late_p99_ms: float
    late_max_ms: float
    disk_p50_ms: float
    disk_p99_ms: float
    disk_max_ms: float
    commits_late: int
    stalls: dict[str, int]
    problems: list[str] = field(default_factory=list)


def measure(
    plan: trial.Plan,
    shape: load.Shape,
    requests: list[load.Prepared],
    contender: contenders.Contender,
    *,
    rate: float,
    share: float,
    round_: int,
) -> Latency:
    """Start a server and send *rate* requests a second; check what it stored."""
    folder = Path(tempfile.mkdtemp(prefix="latency-", dir=plan.scratch))
    try:
        with servers.running(
            contender.arguments(folder),
            core=plan.server_core,
            log=folder / "server.log",
            program=contender.program,
            folder=contender.folder,
        ) as server:
            load.write_requests(requests, folder / "requests", server.port)
            servers.check_answer(server.port, requests[0])
            command = open_loop_command(plan, server.port, folder / "requests")
            warm_up = _run([*command, "--rate", str(rate)], plan.warm_up_s, plan.generator_core)
            late_before = late_commits(server.port)
            with probing(folder / "probe", plan.generator_core) as disk:
                measured = _run([*command, "--rate", str(rate)], plan.seconds, plan.generator_core)
            late = late_commits(server.port) - late_before
            acknowledged = 1 + sum(one["answered"] - one["failed"] for one in (warm_up, measured))
            events_dir = folder / "data" / "events"
            stored.wait_for_lines(events_dir, acknowledged * shape.events, trial.READABLE_S_MAX)
            server.stop()
        ids = [request.event_ids for request in requests]
        _, problems = stored.check(events_dir, ids, acknowledged=acknowledged, in_flight=0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()
    if server.exit_code != 0:
        problems.append(f"the server ended with exit code {server.exit_code}")
    for one in (warm_up, measured):
        if one["failed"] or one["broken"]:
            problems.append(f"{one['failed']} not answered with 200, {one['broken']} not at all")
    return Latency(
        round=round_,
        shape=shape.name,
        share=share,
        asked=rate,
        rate=measured["answered"] / measured["seconds"],
        **{name: measured[name] for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")},
        late_p99_ms=measured["late_p99_ms"],
        late_max_ms=measured["late_max_ms"],
        **{f"disk_{name}": disk[name] for name in ("p50_ms", "p99_ms", "max_ms")},
        commits_late=late,
        stalls=whose(measured["stalls"], disk["long"], measured["own_stalls"]),
        problems=problems,
    )


def open_loop_command(plan: trial.Plan, port: int, folder: Path) -> list[str]:
    command = [sys.executable, str(load.HERE / "open_loop.py"), str(port), str(folder)]
    return [*command, "--connections", str(plan.connections)]


def _run(command: list[str], seconds: float, core: int) -> dict[str, Any]:
    with machine.pinned(core):
        done = subprocess.run(
            [*command, "--seconds", str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
            timeout=2 * seconds + 60,
            check=True,
        )
    return load.result_line(done.stdout, command)


@contextmanager
def probing(file: Path, core: int) -> Iterator[dict[str, Any]]:
    """Probe the disk for the length of the block; the dict yielded has the result after it."""
    command = [sys.executable, str(load.HERE / "disk_probe.py"), str(file)]
    result: dict[str, Any] = {}
    with machine.pinned(core):
        probe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert probe.stdout is not None
        probe.stdout.readline()
        yield result
        output, _ = probe.communicate(timeout=PROBE_END_S_MAX)
        result |= load.result_line(output, command)
    finally:
        probe.kill()
        probe.wait()


def late_commits(port: int) -> int:
    """Ask the server how many of its commits took longer than the bound nearest to 50 ms."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read()
    finally:
        connection.close()
    counts = {float(bound): float(count) for bound, count in COMMITS.findall(text)}
    if not counts:
        return 0
    nearest = max(bound for bound in counts if bound <= 0.05)
    return int(counts[float("inf")] - counts[nearest])


def whose(
    stalls: list[list[float]], disk: list[list[float]], generator: list[list[float]]
) -> dict[str, int]:
    """Count *stalls* by whose they are; all lists hold (begin, end) in seconds of one clock."""

    def covers(others: list[list[float]], stall: list[float]) -> bool:
        covered_s = sum(
            min(end, stall[1]) - max(begin, stall[0])
            for begin, end in others
            if begin < stall[1] and end > stall[0]
        )
        return covered_s >= (stall[1] - stall[0]) / 2

    counts = {"server": 0, "disk": 0, "generator": 0}
    for stall in stalls:
        if covers(disk, stall):
            counts["disk"] += 1
        elif covers(generator, stall):
            counts["generator"] += 1
        else:
            counts["server"] += 1
    return counts


def table(samples: list[Latency]) -> str:
    """Render medians over the rounds, the longest of all, and the sum of stalls."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    groups: dict[tuple[str, float], list[Latency]] = {}
    for sample in samples:
        groups.setdefault((sample.shape, sample.share), []).append(sample)
    for (shape, share), group in groups.items():

        def median(name: str, group: list[Latency] = group) -> float:
            return statistics.median(float(getattr(one, name)) for one in group)

        def longest(name: str, group: list[Latency] = group) -> float:
            return max(float(getattr(one, name)) for one in group)

        stalls = [sum(one.stalls[who] for one in group) for who in group[0].stalls]
        ratio = statistics.median(one.p99_ms / one.p50_ms for one in group)
        cells = [
            shape,
            f"{share:.0%}",
            f"{median('rate'):,.0f} ({median('asked'):,.0f})",
            f"{median('p50_ms'):.2f} / {median('p99_ms'):.2f} / {median('p999_ms'):.2f}",
            f"{ratio:.1f}",
            f"{longest('max_ms'):.1f}",
            f"{median('late_p99_ms'):.2f} / {longest('late_max_ms'):.1f}",
            " / ".join([f"{median(f'disk_{name}_ms'):.2f}" for name in ("p50", "p99")])
            + f" / {longest('disk_max_ms'):.1f}",
            ", ".join(map(str, stalls)),
            str(sum(one.commits_late for one in group)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def run(
    plan: trial.Plan, shape: load.Shape, options: argparse.Namespace, flags: tuple[str, ...]
) -> list[Latency]:
    """Measure saturation, then each share of it in each round."""
    requests = load.prepare(
        shape, path=contenders.PATH, write_key=contenders.WRITE_KEY, event_bytes=0, seed=1
    )
    contender = contenders.segsrv("fsync", flags)
    samples = []
    for round_ in range(1, options.rounds + 1):
        full = trial.measure(plan, shape, requests, contender, round_)
        for share in options.share:
            rate = full.requests_per_s * share
            sample = measure(
                plan, shape, requests, contender, rate=rate, share=share, round_=round_
            )
            sample.problems += full.problems
            samples.append(sample)
            print(
                f"round {round_}, {shape.name}, {share:.0%}: p50 {sample.p50_ms:.2f} ms, "
                f"p99 {sample.p99_ms:.2f} ms {'; '.join(sample.problems)}",
                file=sys.stderr,
                flush=True,
            )
    return samples


def main() -> int:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--share", type=float, action="append", help="of saturation; default: 0.25, 0.5, 0.75")
    add("--shape", choices=("single", "batch"), default="single")
    add("--connections", type=int, default=64)
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=10.0)
    add("--warm-up", type=float, default=2.0)
    add("--generator", choices=("auto", "wrk", "sender"), default="auto", help="for saturation")
    add("--server-core", type=int, default=cores[0])
    add("--generator-core", type=int, default=cores[-1])
    add("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    add("--json", type=Path, help="write every sample and the machine to this file")
    options = parser.parse_args()
    options.share = options.share or [0.25, 0.5, 0.75]
    servers.stop_children_on_sigterm()
    plan = trial.Plan(
        generator=load.pick_generator(options.generator),
        server_core=options.server_core,
        generator_core=options.generator_core,
        connections=options.connections,
        seconds=options.seconds,
        warm_up_s=options.warm_up,
        scratch=options.scratch,
    )
    facts = machine.describe(options.scratch)
    shape = load.make_shapes(100, single_endpoint="/v1/t", batch_endpoint="/v1/batch")[
        options.shape
    ]
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        places = locations.write_database(Path(folder) / "places.mmdb")
        samples = run(plan, shape, options, ("--geoip-db", str(places)))
    for name, text in facts.items():
        print(f"* {name}: {text}")
    print(f"\n{table(samples)}\n")
    problems = [problem for sample in samples for problem in sample.problems]
    print("\n".join(problems) or "every request was answered with 200 and its events are stored")
    if options.json:
        report = {"machine": facts, "samples": [asdict(sample) for sample in samples]}
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
