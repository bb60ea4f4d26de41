"""Everything in one run: the event path, full load, latency, memory; one page with plots.

    python bench/report.py [--quick] [--only PART] [--beside TREE] [--victoria-logs BINARY]

It writes `report.html`, which needs nothing else, `report.json` with every sample, and prints the
tables. All servers of a part are measured in turns within each round, and ratios are taken within
rounds. `--from report.json` makes the page and the tables again from earlier samples, and
`--write-readme` puts the table of results into README.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contenders
import event_path
import latency
import linear
import load
import locations
import machine
import orjson
import report_page
import servers
import soak
import trial
from rounds import BEFORE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CONNECTIONS = (1, 4, 16, 64, 256)
BATCHES = (1, 10, 25, 100, 1000)
DURABILITIES = ("fsync", "write", "memory")
ENDPOINTS = {"single_endpoint": "/v1/t", "batch_endpoint": "/v1/batch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A server under a load, which each round measures once."""

    shape: str
    contender: contenders.Contender
    connections: int = 64
    new_heads: bool = False
    batch_events: int = 100
    all_cores: bool = False


class Bench:
    """Runs the parts of a report, and keeps what they prepared."""

    def __init__(
        self, options: argparse.Namespace, flags: tuple[str, ...], databases: list[Path]
    ) -> None:
        self.options = options
        self.flags = flags
        self.databases = databases
        self._prepared: dict[tuple[str, int], tuple[load.Shape, list[load.Prepared]]] = {}

    def prepared(self, shape: str, batch_events: int) -> tuple[load.Shape, list[load.Prepared]]:
        key = (shape, batch_events)
        if key not in self._prepared:
            made = load.make_shapes(batch_events, **ENDPOINTS)[shape]
            requests = load.prepare(
                made, path=contenders.PATH, write_key=contenders.WRITE_KEY, event_bytes=0, seed=1
            )
            self._prepared[key] = made, requests
        return self._prepared[key]

    def plan(self, case: Case) -> trial.Plan:
        options = self.options
        cores = (options.server_core, options.generator_core)
        return trial.Plan(
            generator=options.generator,
            server_core=options.server_core,
            generator_core=options.generator_core,
            connections=case.connections,
            seconds=options.seconds,
            warm_up_s=options.warm_up,
            scratch=options.scratch,
            new_heads=case.new_heads,
            more_cores=tuple(set(cores) - {options.server_core}) if case.all_cores else (),
        )

    def run(self, part: str, cases: Iterable[Case], rounds: int) -> list[trial.Sample]:
        """Measure all *cases* in each round, with orjson before them."""
        cases, samples = list(cases), []
        loads = list(dict.fromkeys((case.shape, case.batch_events) for case in cases))
        for round_ in range(1, rounds + 1):
            for one in loads:
                shape, requests = self.prepared(*one)
                seconds = min(0.5, self.options.seconds)
                core = self.options.server_core
                samples.append(trial.measure_orjson(shape, requests, round_, seconds, core))
            for case in cases:
                shape, requests = self.prepared(case.shape, case.batch_events)
                sample = trial.measure(self.plan(case), shape, requests, case.contender, round_)
                samples.append(sample)
                progress(
                    f"{part}, round {round_}, {sample.shape}, {case.connections} connections, "
                    f"{sample.server}: {sample.events_per_s:,.0f} events/s, "
                    f"{sample.cpu_us:.1f} µs {'; '.join(sample.problems)}"
                )
        return [replace(sample, part=part) for sample in samples]

    def saturation(self) -> list[trial.Sample]:
        ours = contenders.segsrv("fsync", self.flags)
        outside = [contenders.baseline(contenders.PATH, *ENDPOINTS.values()), contenders.raw()]
        outside += [contenders.naive(), ours]
        before = []
        if self.options.beside:
            tree = self.options.beside.resolve()
            before = [contenders.segsrv("fsync", self.flags, name=BEFORE, tree=tree)]
        victoria = []
        if self.options.victoria_logs:
            victoria = [contenders.victoria_logs(self.options.victoria_logs)]
        cases = [Case(shape="single", contender=one) for one in outside + before + victoria]
        cases += [Case(shape="single", contender=one, new_heads=True) for one in [ours, *before]]
        few = [contenders.disk(), contenders.disk(is_zeroed=True), ours, *before, *victoria]
        cases += [Case(shape="single", contender=one, connections=16) for one in few]
        cases += [Case(shape="batch", contender=one) for one in outside + before + victoria]
        return self.run("saturation", cases, self.options.rounds)

    def connections(self) -> list[trial.Sample]:
        compared = [
            contenders.baseline(contenders.PATH, *ENDPOINTS.values()),
            contenders.segsrv("fsync", self.flags),
        ]
        cases = [
            Case(shape="single", contender=contender, connections=count)
            for count in CONNECTIONS
            for contender in compared
        ]
        return self.run("connections", cases, 1)

    def batches(self) -> list[trial.Sample]:
        contender = contenders.segsrv("fsync", self.flags)
        cases = [
            Case(
                shape="batch",
                contender=contender,
                batch_events=count,
                # No more events on their way than with 64 batches of 100, and answers in time.
                connections=min(64, 6_400 // count),
            )
            for count in BATCHES
        ]
        return self.run("batches", cases, 1)

    def durability(self) -> list[trial.Sample]:
        cases = [
            Case(shape=shape, contender=contenders.segsrv(durability, self.flags))
            for shape in ("single", "batch")
            for durability in DURABILITIES
        ]
        return self.run("durability", cases, 1)

    def workers(self) -> list[trial.Sample]:
        """Measure one worker on one core and two on two, one of which the generator shares."""
        cases = []
        for shape in ("single", "batch"):
            for count in (1, 2):
                flags = (*self.flags, f"--workers={count}")
                name = f"{count} worker{'s' if count > 1 else ''}"
                contender = contenders.segsrv("fsync", flags, name=name)
                cases.append(Case(shape=shape, contender=contender, all_cores=count > 1))
        return self.run("workers", cases, self.options.rounds)

    def latency(self) -> list[latency.Latency]:
        shape, _ = self.prepared("single", 100)
        plan = self.plan(Case(shape="single", contender=contenders.raw()))
        plan = replace(plan, seconds=self.options.latency_seconds)
        options = argparse.Namespace(rounds=min(2, self.options.rounds), share=[0.25, 0.5, 0.75])
        return latency.run(plan, shape, options, self.flags)

    def memory(self) -> list[soak.Sample]:
        plan = self.plan(Case(shape="single", contender=contenders.raw(), new_heads=True))
        rate = soak.saturation(plan, self.flags) / 2
        samples, events, problems = soak.soak(
            plan, self.flags, rate=rate, seconds=self.options.memory_seconds
        )
        progress(f"memory: {events:,} events {'; '.join(problems)}")
        if problems:
            raise RuntimeError("; ".join(problems))
        return samples

    def micro(self) -> list[event_path.Cost]:
        options = self.options
        with machine.pinned(options.server_core):
            return event_path.measure(
                self.databases,
                batch_events=100,
                rounds=options.rounds,
                seconds=options.micro_seconds,
            )

    def linear(self) -> list[linear.Point]:
        options = self.options
        with machine.pinned(options.server_core):
            return linear.measure(
                self.databases, rounds=options.rounds, seconds=options.micro_seconds
            )


PARTS: dict[str, Callable[[Bench], list[Any]]] = {
    "micro": Bench.micro,
    "linear": Bench.linear,
    "saturation": Bench.saturation,
    "connections": Bench.connections,
    "batches": Bench.batches,
    "durability": Bench.durability,
    "workers": Bench.workers,
    "latency": Bench.latency,
    "memory": Bench.memory,
}


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the parts that were asked for; a part that breaks is a problem, not the end."""
    facts = machine.describe(options.scratch) | {"generator": options.generator}
    if not options.quick:
        facts["memory"] = machine.warm_memory()
    if options.beside:
        facts[BEFORE] = machine.commit(options.beside)
    if options.victoria_logs:
        facts["VictoriaLogs"] = contenders.victoria_logs_version(options.victoria_logs)
    parts: dict[str, list[dict[str, Any]]] = {}
    problems = []
    # This process only waits; what little it does must not be the server's loss.
    os.sched_setaffinity(0, {options.generator_core})
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        places = locations.write_database(Path(folder) / "places.mmdb")
        bench = Bench(options, ("--geoip-db", str(places)), [places])
        for name in options.only or PARTS:
            started = time.monotonic()
            try:
                parts[name] = [asdict(sample) for sample in PARTS[name](bench)]
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                problems.append(f"{name}: {error}")
            progress(f"{name}: {time.monotonic() - started:.0f} s")
    for name, samples in parts.items():
        for sample in samples:
            problems += [f"{name}: {text}" for text in sample.get("problems", ())]
    return {"machine": facts, "rounds": options.rounds, "parts": parts, "problems": problems}


def parse_options() -> argparse.Namespace:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="one round of short runs, to see that all works")
    add("--only", action="append", choices=tuple(PARTS), help="repeatable; default: all parts")
    add("--rounds", type=int, help="default: 3")
    add("--seconds", type=float, help="measured time of each load (default: 3)")
    add("--warm-up", type=float, default=1.0)
    add("--micro-seconds", type=float, help="of each part of the event path (default: 0.5)")
    add("--latency-seconds", type=float, help="at each rate (default: 10)")
    add("--memory-seconds", type=float, help="default: 60; `soak.py` does half an hour")
    add("--soak", type=Path, help="take memory over time from this file of `soak.py --json`")
    add("--beside", type=Path, metavar="TREE", help="another tree of segsrv, in the same rounds")
    add("--victoria-logs", type=Path, metavar="BINARY", help="VictoriaLogs, in the same rounds")
    add("--generator", choices=("auto", "wrk", "sender"), default="auto")
    add("--server-core", type=int, default=cores[0])
    add("--generator-core", type=int, default=cores[-1])
    add("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="disk to measure on")
    add("--out", type=Path, default=Path(), help="folder for report.html and report.json")
    add("--from", type=Path, dest="source", metavar="JSON", help="render earlier samples again")
    add("--write-readme", action="store_true", help="put the table of results into README.md")
    options = parser.parse_args()
    short = (1, 1.0, 0.1, 3.0, 10.0)
    usual = (3, 3.0, 0.5, 10.0, 60.0)
    names = ("rounds", "seconds", "micro_seconds", "latency_seconds", "memory_seconds")
    for name, value in zip(names, short if options.quick else usual, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
        elif getattr(options, name) <= 0:
            parser.error(f"{name} must be above 0: else nothing is measured")
    for folder in (options.scratch, options.out):
        if not folder.is_dir():
            parser.error(f"{folder}: no such folder")
    options.generator = load.pick_generator(options.generator)
    return options


def main() -> int:
    options = parse_options()
    servers.stop_children_on_sigterm()
    report = orjson.loads(options.source.read_bytes()) if options.source else measure(options)
    if options.soak:
        report["parts"]["memory"] = orjson.loads(options.soak.read_bytes())["samples"]
    text = report_page.markdown(report)
    (options.out / "report.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    (options.out / "report.html").write_text(report_page.page(report))
    print(text)
    if options.write_readme:
        report_page.write_readme(machine.REPOSITORY / "README.md", report)
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
