"""How fast each sink catches up, and what segsrv adds to what its driver takes alone.

    python bench/sinks.py                       # all sinks whose servers are installed
    python bench/sinks.py --sink kafka --sink s3 --events 50000 --rounds 1

A backlog of events waits in a journal. In turns, each on a server that was started anew:

* *driver*: the library alone is given the same batches, as bare calls, encoded as the sink does it.
  Reading the journal is not counted.
* *segsrv*: delivery as it runs in its own process, from the journal to the last event stored.

Both are a process of their own; counted is its CPU time, with all its threads. After each the
events in the sink are read: every id must be there exactly once. What is *on top* is the difference
of each half's least disturbed round, and all rounds' differences stand behind it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import backlog
import machine
import servers
import sink_runs
from sink_runs import Job, Run

sys.path.append(str(machine.REPOSITORY))
ON_TOP_US_MAX = 3.0
BLOCK_BYTES = 512
PASSING = ("pg_wal", "state")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A sink to measure: where tests have its server, and a table where theirs does not fit."""

    target: str
    table: str = ""


KAFKA = """
[[sinks]]
name = "kafka"
url = "kafka://127.0.0.1:{port}/events"
options = {{ mode = "%s", partitions = 3 }}
"""
POSTGRESQL = """
[[sinks]]
name = "postgresql"
url = "postgresql://plain@127.0.0.1:{port}/events"
"""


CONTENDERS = {
    "file": Contender(target="tests.services.file_target:FileTarget"),
    "kafka-idempotent": Contender(
        target="tests.services.kafka_target:KafkaTarget", table=KAFKA % "idempotent"
    ),
    "kafka-transactional": Contender(
        target="tests.services.kafka_target:KafkaTransactionalTarget",
        table=KAFKA % "transactional",
    ),
    "postgresql": Contender(
        target="tests.services.postgresql_target:PostgresqlTarget", table=POSTGRESQL
    ),
    "clickhouse": Contender(target="tests.services.clickhouse_target:ClickhouseTarget"),
    "s3": Contender(target="tests.services.s3_target:S3Target"),
    "webhook": Contender(target="tests.services.webhook_target:WebhookTarget"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Both halves of one round."""

    driver: Run
    segsrv: Run


def on_top_us(rounds: list[Round]) -> float:
    """Return what segsrv adds in the least disturbed run of each half.

    What else a machine does only ever adds to the time that the same work takes.
    """
    return min(one.segsrv.cpu_us for one in rounds) - min(one.driver.cpu_us for one in rounds)


def measure(options: argparse.Namespace, name: str, half: str, ids: list[str]) -> Run:
    """Start the sink's server, deliver all of the backlog there, and look for every event."""
    contender = CONTENDERS[name]
    folder = Path(tempfile.mkdtemp(prefix=f"sinks-{name}-", dir=options.scratch))
    target = _target_class(contender)(folder)
    service = getattr(target, "service", None)
    own_core, *_, service_core = options.cores
    try:
        with machine.pinned(service_core):
            if service is not None:
                service.start()
        port = service.port if service else 0
        if contender.table:
            table = contender.table.format(port=port)
        else:
            target.ready()
            table = target.table(port)
        job = Job(
            name=name,
            half=half,
            table=table,
            environ=target.environ(),
            folder=folder,
            journal=options.journal,
            core=own_core,
        )
        data_dir = service.data_dir if service is not None else folder
        before = disk_bytes(data_dir)
        run = _in_a_process(sink_runs.run, job)
        run = replace(run, disk_bytes=(disk_bytes(data_dir) - before) / len(ids))
        if fault := difference(ids, target.ids()):
            raise SystemExit(f"{name}, {half}: {fault}")
    finally:
        if service is not None:
            service.close()
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()
    return run


def difference(sent: list[str], found: list[str]) -> str:
    """Say what is wrong with the ids that were *found*; nothing if each is there once."""
    lost = len(set(sent).difference(found))
    foreign = len(set(found).difference(sent))
    doubled = len(found) - len(set(found))
    if lost or foreign or doubled:
        return f"of {len(sent)} events {lost} are lost, {doubled} doubled, {foreign} foreign"
    return ""


def _in_a_process(function: Callable[[Job], Run], job: Job) -> Run:
    """Call it in a new interpreter, which has no other memory and no other threads."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, job).result()


def disk_bytes(folder: Path) -> int:
    """Return what all files below *folder* take, without PostgreSQL's log and segsrv's state."""
    total = 0
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in PASSING]
        for name in names:
            # A server may be deleting one.
            with contextlib.suppress(FileNotFoundError):
                total += (Path(root) / name).stat().st_blocks * BLOCK_BYTES
    return total


def _target_class(contender: Contender) -> Any:
    module, _colon, name = contender.target.partition(":")
    return getattr(importlib.import_module(module), name)


def missing(name: str) -> str | None:
    """Say what a sink needs that is not there."""
    try:
        found: str | None = _target_class(CONTENDERS[name]).installed()
    except ImportError as error:
        return str(error)
    return found


def row(name: str, rounds: list[Round], events: int) -> str:
    def median(of: Callable[[Round], float]) -> float:
        return statistics.median(map(of, rounds))

    tops = [one.segsrv.cpu_us - one.driver.cpu_us for one in rounds]
    cells = (
        name,
        f"{median(lambda one: one.segsrv.events_per_s):,.0f}",
        f"{median(lambda one: one.driver.events_per_s):,.0f}",
        f"{median(lambda one: one.segsrv.events_per_s / one.driver.events_per_s):.2f}",
        f"{median(lambda one: one.driver.encode_us):.1f}",
        f"{median(lambda one: one.driver.cpu_us - one.driver.encode_us):.1f}",
        f"{median(lambda one: one.segsrv.cpu_us):.1f}",
        f"{on_top_us(rounds):.1f} ({min(tops):.1f} to {max(tops):.1f})",
        f"{median(lambda one: one.segsrv.batches):,.0f}",
        f"{median(lambda one: one.segsrv.disk_bytes):,.0f}",
        f"{events:,} found",
    )
    return f"| {' | '.join(cells)} |"


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--sink", action="append", choices=tuple(CONTENDERS), help="default: all")
    add("--events", type=int, default=200_000, help="in the backlog (default: 200000)")
    add("--rounds", type=int, default=3, help="default: 3")
    add("--shape", choices=("batch", "single"), default="batch", help="how the events had come")
    add("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="disk to measure on")
    options = parser.parse_args()
    options.cores = sorted(os.sched_getaffinity(0))
    return options


def main() -> None:
    options = parse_options()
    servers.stop_children_on_sigterm()
    scratch = Path(tempfile.mkdtemp(prefix="sinks-", dir=options.scratch))
    options.journal = scratch / "journal" / backlog.NAME
    is_over = False
    try:
        ids = backlog.fill(
            options.journal, events=options.events, is_single=options.shape == "single"
        )
        size = sum(path.stat().st_size for path in options.journal.iterdir())
        for fact, text in machine.describe(scratch).items():
            print(f"* {fact}: {text}")
        print(f"* backlog: {len(ids):,} events, {size / len(ids):,.0f} bytes each in the journal")
        print(
            "\n| sink | events/s | driver alone | ratio | encoding, CPU µs an event | driver "
            "| segsrv | on top (rounds) | batches | bytes an event there | correct |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for name in options.sink or CONTENDERS:
            if lacking := missing(name):
                print(f"| {name} | not measured: {lacking} | | | | | | | | | |", flush=True)
                continue
            rounds = [
                Round(
                    driver=measure(options, name, "driver", ids),
                    segsrv=measure(options, name, "segsrv", ids),
                )
                for _round in range(options.rounds)
            ]
            print(row(name, rounds, len(ids)), flush=True)
            is_over |= on_top_us(rounds) > ON_TOP_US_MAX
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if is_over:
        raise SystemExit(f"FAULT: more than {ON_TOP_US_MAX} µs an event on top of a driver")


if __name__ == "__main__":
    main()
