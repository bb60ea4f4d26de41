"""How many events a second one core takes, beside a baseline and with a check for lost events.

    python bench/saturate.py --durability fsync --durability memory

The server under test has one core and the load generator another. Each round starts every server
anew, one after the other, so that whatever else happens on the machine hits all of them; the table
shows medians over the rounds with their spread, and the median of each round's own ratio. After
each round of segsrv the files that it wrote are read back and compared with what was acknowledged.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import load
import machine
import orjson
import servers
import stored

WRITE_KEY = "bench-write-key"
READABLE_S_MAX = 60.0
GENERATOR_SATURATED = 0.95
BASELINE = "baseline"
ORJSON = "orjson loads+dumps"
COLUMNS = (
    "load",
    "server",
    "events/s (min to max)",
    "requests/s",
    "of baseline",
    "of orjson",
    "p50 / p99 ms",
    "generator CPU",
    "server core",
    "readable after (max)",
    "lost",
)


@dataclass(slots=True, kw_only=True)
class Sample:
    """One server under one kind of load in one round; rates are of acknowledged requests only."""

    round: int
    shape: str
    server: str
    events_per_s: float
    requests_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    generator_cpu: float = 0.0
    server_core_busy: float = 0.0
    events_acknowledged: int = 0
    events_stored: int | None = None
    readable_after_s: float | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does, from the command line."""

    generator: str
    server_core: int
    generator_core: int
    connections: int
    seconds: float
    warm_up_s: float
    path: str
    server_arguments: list[str]
    scratch: Path


def measure(
    plan: Plan, shape: load.Shape, requests: list[load.Prepared], server_name: str, round_: int
) -> Sample:
    """Start one server, load it, stop it, and check what it stored."""
    folder = Path(tempfile.mkdtemp(prefix="saturate-", dir=plan.scratch))
    try:
        arguments = server_command(plan, server_name, folder / "data", requests[0].path)
        log = folder / "server.log"
        with servers.running(arguments, core=plan.server_core, log=log) as server:
            sample, sent = send_load(plan, shape, requests, server, folder / "requests")
            sample.round, sample.server = round_, server_name
            events_dir = folder / "data" / "events"
            if server_name != BASELINE:
                expected = sample.events_acknowledged
                sample.readable_after_s = stored.wait_for_lines(
                    events_dir, expected, READABLE_S_MAX
                )
                if sample.readable_after_s is None:
                    sample.problems.append(
                        f"acknowledged events not readable after {READABLE_S_MAX:.0f} s"
                    )
            server.stop()
        if server.exit_code != 0:
            sample.problems.append(f"the server ended with exit code {server.exit_code}")
        if server_name != BASELINE:
            sample.events_stored, faults = stored.check(
                events_dir,
                [request.event_ids for request in requests],
                acknowledged=sum(one.acknowledged for one in sent) + 1,
                in_flight=sum(one.in_flight for one in sent),
            )
            sample.problems += faults
        return sample
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # The next server must not wait for this one's dirty pages.
        os.sync()


def server_command(plan: Plan, name: str, data_dir: Path, path: str) -> list[str]:
    if name == BASELINE:
        return [str(load.HERE / "baseline_server.py"), "--port", "0", "--path", path]
    command = ["-m", "segsrv", "serve", "--host", "127.0.0.1", "--port", "0"]
    command += ["--data-dir", str(data_dir), "--write-key", WRITE_KEY, "--durability", name]
    return command + plan.server_arguments


def send_load(
    plan: Plan,
    shape: load.Shape,
    requests: list[load.Prepared],
    server: servers.Server,
    folder: Path,
) -> tuple[Sample, list[load.Load]]:
    """Check one answer, warm up, then measure; all of it counts for what must be stored."""
    load.write_requests(requests, folder, server.port)
    servers.check_answer(server.port, requests[0])

    def run(seconds: float) -> load.Load:
        return load.send(
            plan.generator,
            port=server.port,
            folder=folder,
            connections=plan.connections,
            seconds=seconds,
            core=plan.generator_core,
        )

    warm_up = run(plan.warm_up_s)
    busy_before, up_before = machine.core_seconds(plan.server_core)
    measured = run(plan.seconds)
    busy_after, up_after = machine.core_seconds(plan.server_core)
    requests_per_s = measured.acknowledged / measured.seconds
    sample = Sample(
        round=0,
        shape=shape.name,
        server="",
        events_per_s=requests_per_s * shape.events,
        requests_per_s=requests_per_s,
        p50_ms=measured.p50_ms,
        p99_ms=measured.p99_ms,
        generator_cpu=measured.cpu_share,
        server_core_busy=(busy_after - busy_before) / max(up_after - up_before, 1e-9),
        events_acknowledged=(warm_up.acknowledged + measured.acknowledged + 1) * shape.events,
    )
    for one in (warm_up, measured):
        if one.failed or one.broken:
            sample.problems.append(
                f"{one.failed} requests not answered with 200, {one.broken} not at all"
            )
    return sample, [warm_up, measured]


def measure_orjson(
    shape: load.Shape, requests: list[load.Prepared], round_: int, seconds: float, core: int
) -> Sample:
    """Parse and serialise the same bodies and do nothing else: the floor under any JSON server."""
    bodies = [request.body for request in requests]
    done = 0
    with machine.pinned(core):
        started = time.perf_counter()
        while (elapsed_s := time.perf_counter() - started) < seconds:
            for body in bodies:
                orjson.dumps(orjson.loads(body))
            done += len(bodies)
    return Sample(
        round=round_,
        shape=shape.name,
        server=ORJSON,
        events_per_s=done * shape.events / elapsed_s,
        requests_per_s=done / elapsed_s,
    )


def table(samples: list[Sample]) -> str:
    """Render medians and spreads, each server beside the baseline of the same rounds."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.shape, sample.server), []).append(sample)
    for (shape, server), group in groups.items():
        rates = [sample.events_per_s for sample in group]
        cells = [
            shape,
            server,
            f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
            f"{statistics.median(sample.requests_per_s for sample in group):,.0f}",
            "" if server == ORJSON else ratio(group, groups[shape, BASELINE]),
            "" if server in {ORJSON, BASELINE} else ratio(group, groups[shape, ORJSON]),
        ]
        lines.append(f"| {' | '.join(cells + load_cells(server, group))} |")
    return "\n".join(lines)


def ratio(group: list[Sample], reference: list[Sample]) -> str:
    by_round = {sample.round: sample.events_per_s for sample in reference}
    ratios = [sample.events_per_s / by_round[sample.round] for sample in group]
    return f"{statistics.median(ratios):.2f}"


def load_cells(server: str, group: list[Sample]) -> list[str]:
    if server == ORJSON:
        return [""] * 5
    generator_cpu = statistics.median(sample.generator_cpu for sample in group)
    # A busy generator means that the server could take more than the figure says.
    mark = " (saturated)" if generator_cpu >= GENERATOR_SATURATED else ""
    readable = lost = ""
    if server != BASELINE:
        waits = [sample.readable_after_s for sample in group]
        readable = "never" if None in waits else f"{max(wait or 0 for wait in waits):.1f} s"
        lost = str(sum(loss(sample) for sample in group))
    p50 = statistics.median(sample.p50_ms for sample in group)
    p99 = statistics.median(sample.p99_ms for sample in group)
    core = statistics.median(sample.server_core_busy for sample in group)
    busy = [f"{generator_cpu:.0%}{mark}", f"{core:.0%}"]
    return [f"{p50:.1f} / {p99:.1f}", *busy, readable, lost]


def loss(sample: Sample) -> int:
    return max(0, sample.events_acknowledged - (sample.events_stored or 0))


def run(plan: Plan, options: argparse.Namespace) -> list[Sample]:
    shapes = load.make_shapes(
        options.batch_events,
        single_endpoint=options.single_endpoint,
        batch_endpoint=options.batch_endpoint,
    )
    samples: list[Sample] = []
    prepared = {
        name: load.prepare(
            shapes[name],
            path=plan.path,
            write_key=WRITE_KEY,
            event_bytes=options.payload_bytes,
            seed=options.seed,
        )
        for name in options.shape
    }
    for round_ in range(1, options.rounds + 1):
        for name, requests in prepared.items():
            seconds = min(1.0, plan.seconds)
            samples.append(
                measure_orjson(shapes[name], requests, round_, seconds, plan.server_core)
            )
            for server_name in (BASELINE, *options.durability):
                sample = measure(plan, shapes[name], requests, server_name, round_)
                samples.append(sample)
                progress(sample)
    return samples


def progress(sample: Sample) -> None:
    print(
        f"round {sample.round}, {sample.shape}, {sample.server}: "
        f"{sample.events_per_s:,.0f} events/s {'; '.join(sample.problems)}",
        file=sys.stderr,
        flush=True,
    )


def parse_options() -> argparse.Namespace:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="default: 3")
    add("--seconds", type=float, default=10.0, help="measured time of each load (default: 10)")
    add("--warm-up", type=float, default=2.0, help="seconds before that (default: 2)")
    add("--connections", type=int, default=64, help="keep-alive connections (default: 64)")
    add("--batch-events", type=int, default=100, help="events in a batch (default: 100)")
    add("--payload-bytes", type=int, default=0, help="pad every event to this size; 0 leaves it")
    add("--path", default="/api/v1/segment", help="…/compat gives the other format")
    add("--single-endpoint", default="", help="after --path, such as /v1/t (default: none)")
    add("--batch-endpoint", default="", help="after --path, such as /v1/batch (default: none)")
    add("--shape", action="append", choices=("single", "batch"), help="default: both")
    add(
        "--durability",
        action="append",
        choices=("fsync", "write", "memory"),
        help="repeatable; default: fsync",
    )
    add("--generator", choices=("auto", "wrk", "sender"), default="auto")
    add("--server-core", type=int, default=cores[0])
    add("--generator-core", type=int, default=cores[-1])
    add(
        "--server-arg", action="append", default=[], help="for segsrv, as --server-arg=--flag=value"
    )
    add("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="disk to measure on")
    add("--seed", type=int, default=1, help="of the payloads")
    add("--json", type=Path, help="write every sample and the machine to this file")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds must be at least 1 and --seconds above 0: else nothing is measured")
    for name, core in (("server", options.server_core), ("generator", options.generator_core)):
        if core not in cores:
            parser.error(f"--{name}-core {core}: not one of {', '.join(map(str, cores))}")
    if not options.scratch.is_dir():
        parser.error(f"--scratch {options.scratch}: no such folder")
    options.shape = options.shape or ["single", "batch"]
    options.durability = options.durability or ["fsync"]
    if options.server_core == options.generator_core:
        print("server and generator share a core: the figures mean little", file=sys.stderr)
    return options


def main() -> int:
    options = parse_options()
    servers.stop_children_on_sigterm()
    plan = Plan(
        generator=load.pick_generator(options.generator),
        server_core=options.server_core,
        generator_core=options.generator_core,
        connections=options.connections,
        seconds=options.seconds,
        warm_up_s=options.warm_up,
        path=options.path,
        server_arguments=options.server_arg,
        scratch=options.scratch,
    )
    facts = machine.describe(plan.scratch) | {"generator": plan.generator}
    # This process only waits; what little it does must not be the server's loss.
    os.sched_setaffinity(0, {options.generator_core})
    samples = run(plan, options)

    for name, text in facts.items():
        print(f"* {name}: {text}")
    print(f"\n{table(samples)}\n")
    problems = [
        f"round {sample.round}, {sample.shape}, {sample.server}: {problem}"
        for sample in samples
        for problem in sample.problems
    ]
    lost = sum(loss(sample) for sample in samples if sample.events_stored is not None)
    checked = sum(
        sample.events_acknowledged for sample in samples if sample.events_stored is not None
    )
    print(f"loss {lost}: {checked:,} acknowledged events were looked for in the stored files")
    print("\n".join(problems) or "no failed request, no lost, doubled or unreadable event")
    if options.json:
        report = {"machine": facts, "samples": [asdict(sample) for sample in samples]}
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
