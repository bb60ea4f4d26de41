"""The two halves that `sinks.py` compares, each to be run in a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

import backlog
import sink_drivers
import uvloop

from segsrv import allocator
from segsrv.delivery.bundle import Limits
from segsrv.delivery.delivery import Delivery
from segsrv.settings import Settings
from segsrv.settings.sources import load
from segsrv.sinks.kind import SinkSpec
from segsrv.sinks.registry import Built, build, resolve

POLL_S = 0.02
TIME_S_MAX = 600.0
GRACE_S = 30.0
# Tests want small batches and short waits; what is measured is what a sink has by itself.
_OF_TESTS = re.compile(r"^(batch_|send_timeout_s|retry_s_max).*\n", re.MULTILINE)
AT_ONCE = "batch_interval_s = 0.01"
"""The last batch is not full, and need not wait for more."""
ORIGIN = "0123456789abcdef"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to measure; *table* is the sink's, in TOML."""

    name: str
    half: str
    table: str
    environ: dict[str, str]
    folder: Path
    journal: Path
    core: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One half; `encode_us` is the part of `cpu_us` before the driver has its bytes.

    `disk_bytes` is what an event takes in the sink, known after the server was looked at.
    """

    events_per_s: float
    cpu_us: float
    batches: int
    encode_us: float = 0.0
    disk_bytes: float = 0.0


def run(job: Job) -> Run:
    os.sched_setaffinity(0, {job.core})
    os.environ.update(job.environ)
    config = job.folder / "bench.toml"
    table = _OF_TESTS.sub("", job.table).replace("[[sinks]]\n", f"[[sinks]]\n{AT_ONCE}\n")
    config.write_text(table)
    settings = load(
        {"config": str(config), "data_dir": str(job.folder / "data"), "write_key": ["bench"]}, {}
    )
    [built] = build(settings, job.environ, origin=ORIGIN)
    [named] = resolve(settings)
    secrets = {
        name: secret.read(name, job.environ) for name, secret in built.config.secrets.items()
    }
    spec = replace(named.spec, secrets=secrets)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if job.half == "driver":
            return runner.run(_drive(job, built, spec))
        return runner.run(_deliver(job, settings, built))


async def _deliver(job: Job, settings: Settings, built: Built) -> Run:
    source = backlog.open_source(job.journal)
    delivery = Delivery(settings, [built], [source], guard=lambda: None)
    [shipper] = delivery.shippers
    allocator.collect_seldom()
    started_s, cpu_s = time.perf_counter(), time.process_time()
    await delivery.start()
    while shipper.lag_bytes:
        await asyncio.sleep(POLL_S)
        if shipper.is_failing or time.perf_counter() - started_s > TIME_S_MAX:
            raise SystemExit(f"{job.name}: {shipper.message or 'not done'}")
    took_s = time.perf_counter() - started_s
    await delivery.stop(GRACE_S)
    await source.close()
    cpu_s = time.process_time() - cpu_s
    events = shipper.stats.events
    return Run(
        events_per_s=events / took_s,
        cpu_us=1e6 * cpu_s / events,
        batches=shipper.stats.batches,
    )


async def _drive(job: Job, built: Built, spec: SinkSpec) -> Run:
    # Tables and topics are to be the very same ones.
    await built.sink.open()
    await built.sink.close()
    config = built.config
    source = backlog.open_source(job.journal)
    limits = Limits(config.batch_events_max, config.batch_bytes_max, 0)
    events = batches = 0
    took_s = cpu_s = encode_s = 0.0
    driver = sink_drivers.DRIVERS[job.name](spec)
    allocator.collect_seldom()
    for batch in backlog.batches(source, limits):
        given = sink_drivers.Given(batch.id, batch.content, batch.lines(), batch.facts)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        if not batches:
            await driver.open()
        before_s = time.process_time()
        encoded = driver.encode(given)
        encode_s += time.process_time() - before_s
        await driver.send(encoded)
        took_s += time.perf_counter() - began_s
        cpu_s += time.process_time() - began_cpu_s
        events += batch.events
        batches += 1
    await driver.close()
    await source.close()
    return Run(
        events_per_s=events / took_s,
        cpu_us=1e6 * cpu_s / events,
        batches=batches,
        encode_us=1e6 * encode_s / events,
    )
