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
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import contenders
import load
import locations
import machine
import orjson
import servers
from trial import BASELINE, ORJSON, Plan, Sample, loss, measure, measure_orjson

GENERATOR_SATURATED = 0.95
WARMED_FROM_S = 2.0
"""Shorter runs only show that all works."""
COLUMNS = (
    "load",
    "server",
    "events/s (min to max)",
    "requests/s",
    "of baseline",
    "of orjson",
    "CPU µs an event",
    "p50 / p99 ms",
    "generator CPU",
    "server core",
    "readable after (max)",
    "lost",
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
            f"{statistics.median(sample.cpu_us for sample in group):.1f}",
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
    if group[0].events_stored is not None:
        waits = [sample.readable_after_s for sample in group]
        readable = "never" if None in waits else f"{max(wait or 0 for wait in waits):.1f} s"
        lost = str(sum(loss(sample) for sample in group))
    p50 = statistics.median(sample.p50_ms for sample in group)
    p99 = statistics.median(sample.p99_ms for sample in group)
    core = statistics.median(sample.server_core_busy for sample in group)
    busy = [f"{generator_cpu:.0%}{mark}", f"{core:.0%}"]
    return [f"{p50:.1f} / {p99:.1f}", *busy, readable, lost]


def run(plan: Plan, options: argparse.Namespace, geoip_db: Path) -> list[Sample]:
    shapes = load.make_shapes(
        options.batch_events,
        single_endpoint=options.single_endpoint,
        batch_endpoint=options.batch_endpoint,
    )
    samples: list[Sample] = []
    prepared = {
        name: load.prepare(
            shapes[name],
            path=options.path,
            write_key=contenders.WRITE_KEY,
            event_bytes=options.payload_bytes,
            seed=options.seed,
        )
        for name in options.shape
    }
    beside = make_contenders(options, geoip_db)
    for round_ in range(1, options.rounds + 1):
        for name, requests in prepared.items():
            seconds = min(1.0, plan.seconds)
            samples.append(
                measure_orjson(shapes[name], requests, round_, seconds, plan.server_core)
            )
            for contender in beside:
                sample = measure(plan, shapes[name], requests, contender, round_)
                samples.append(sample)
                progress(sample)
    return samples


def make_contenders(options: argparse.Namespace, geoip_db: Path) -> list[contenders.Contender]:
    flags = ("--geoip-db", str(geoip_db), *options.server_arg)
    ends = (options.single_endpoint, options.batch_endpoint)
    made = [contenders.baseline(options.path, *ends)]
    made += [contenders.segsrv(durability, flags) for durability in options.durability]
    if options.beside:
        name = f"fsync of {options.beside.name}"
        made.append(contenders.segsrv("fsync", flags, name=name, tree=options.beside.resolve()))
    if options.victoria_logs:
        made.append(contenders.victoria_logs(options.victoria_logs))
    return made


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
    add("--beside", type=Path, metavar="TREE", help="another tree of segsrv, in the same rounds")
    add("--victoria-logs", type=Path, metavar="BINARY", help="VictoriaLogs, in the same rounds")
    add("--new-heads", action="store_true", help="single events from addresses that all differ")
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
    if options.new_heads and "batch" in options.shape:
        parser.error("--new-heads is for --shape single: batches come from one backend")
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
        scratch=options.scratch,
        new_heads=options.new_heads,
    )
    facts = machine.describe(plan.scratch) | {"generator": plan.generator}
    if plan.seconds >= WARMED_FROM_S:
        facts["memory"] = machine.warm_memory()
    # This process only waits; what little it does must not be the server's loss.
    os.sched_setaffinity(0, {options.generator_core})
    with tempfile.TemporaryDirectory(dir=plan.scratch) as folder:
        samples = run(plan, options, locations.write_database(Path(folder) / "places.mmdb"))

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
