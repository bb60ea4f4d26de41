"""One trial: start a server, load it, see what it took, and check what it stored."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import contenders
import load
import machine
import orjson
import servers
import stored

READABLE_S_MAX = 60.0
BASELINE = "baseline"
ORJSON = "orjson loads+dumps"


@dataclass(slots=True, kw_only=True)
class Sample:
    """One server under one kind of load in one round; rates are of acknowledged requests only.

    `cpu_us` is the processor time of all of the server's processes for an event, until the last
    one could be read; `memory_mib` what they had in anonymous memory then.
    """

    round: int
    shape: str
    server: str
    part: str = ""
    meaning: str = ""
    events: int = 1
    connections: int = 0
    heads: str = "known"
    cores: int = 1
    events_per_s: float
    requests_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    p999_ms: float = 0.0
    cpu_us: float = 0.0
    memory_mib: float = 0.0
    generator_cpu: float = 0.0
    server_core_busy: float = 0.0
    events_acknowledged: int = 0
    events_stored: int | None = None
    readable_after_s: float | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a trial does, whatever the server; `more_cores` are for servers of several processes."""

    generator: str
    server_core: int
    generator_core: int
    connections: int
    seconds: float
    warm_up_s: float
    scratch: Path
    new_heads: bool = False
    more_cores: tuple[int, ...] = ()


def measure(
    plan: Plan,
    shape: load.Shape,
    requests: list[load.Prepared],
    contender: contenders.Contender,
    round_: int,
) -> Sample:
    """Start one server, load it, stop it, and check what it stored."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=plan.scratch))
    requests = [contender.adapt(request) for request in requests]
    sample = Sample(
        round=round_,
        shape=shape.name,
        events=shape.events,
        server=contender.name,
        meaning=contender.meaning,
        connections=plan.connections,
        heads="new" if plan.new_heads else "known",
        cores=1 + len(plan.more_cores),
        events_per_s=0,
    )
    try:
        with servers.running(
            contender.arguments(folder),
            core=plan.server_core,
            more_cores=plan.more_cores,
            log=folder / "server.log",
            program=contender.program,
            folder=contender.folder,
        ) as server:
            sent = _send(plan, shape, requests, contender, server, folder, sample)
            server.stop()
        if server.exit_code != contender.exit_code:
            sample.problems.append(f"the server ended with exit code {server.exit_code}")
        if contender.store == "files":
            sample.events_stored, faults = stored.check(
                folder / "data" / "events",
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


def _send(
    plan: Plan,
    shape: load.Shape,
    requests: list[load.Prepared],
    contender: contenders.Contender,
    server: servers.Server,
    folder: Path,
    sample: Sample,
) -> list[load.Load]:
    """Check one answer, warm up, measure into *sample*; all of it counts for what is stored."""
    load.write_requests(requests, folder / "requests", server.port)
    servers.check_answer(server.port, requests[0], is_json=contender.is_json)

    def run(seconds: float) -> load.Load:
        return load.send(
            plan.generator,
            port=server.port,
            folder=folder / "requests",
            connections=plan.connections,
            seconds=seconds,
            core=plan.generator_core,
            is_json=contender.is_json,
            new_heads=plan.new_heads,
        )

    sent = [run(plan.warm_up_s)]
    expected = (sent[0].acknowledged + 1) * shape.events
    # What the warm-up left to be delivered is not the measured events' cost.
    _wait_until_readable(contender, server, folder, expected, sample)
    cpu_before_s = machine.tree_cpu_s(server.process.pid)
    busy_before, up_before = machine.core_seconds(plan.server_core)
    sent.append(measured := run(plan.seconds))
    busy_after, up_after = machine.core_seconds(plan.server_core)
    events = measured.acknowledged * shape.events
    expected += events
    sample.readable_after_s = _wait_until_readable(contender, server, folder, expected, sample)
    cpu_s = machine.tree_cpu_s(server.process.pid) - cpu_before_s
    sample.cpu_us = 1e6 * cpu_s / max(events, 1)
    sample.memory_mib = machine.tree_anonymous_bytes(server.process.pid) / (1 << 20)
    sample.requests_per_s = measured.acknowledged / measured.seconds
    sample.events_per_s = events / measured.seconds
    sample.p50_ms, sample.p99_ms = measured.p50_ms, measured.p99_ms
    sample.p999_ms, sample.generator_cpu = measured.p999_ms, measured.cpu_share
    sample.server_core_busy = (busy_after - busy_before) / max(up_after - up_before, 1e-9)
    sample.events_acknowledged = expected
    if not events:
        sample.problems.append("no request was answered before the time was over")
    for one in sent:
        if one.failed or one.broken:
            sample.problems.append(
                f"{one.failed} requests not answered with 200, {one.broken} not at all"
            )
    if contender.store == "victoria-logs":
        sample.events_stored = contenders.count_victoria_logs(server.port)
        most = expected + sum(one.in_flight for one in sent) * shape.events
        if not expected <= sample.events_stored <= most:
            sample.problems.append(f"{sample.events_stored} events found, {expected} sent")
    return sent


def _wait_until_readable(
    contender: contenders.Contender,
    server: servers.Server,
    folder: Path,
    expected: int,
    sample: Sample,
) -> float | None:
    """Wait until *expected* events can be read; return how long that took, None if never."""
    if contender.store == "none":
        return None
    if contender.store == "files":
        waited_s = stored.wait_for_lines(folder / "data" / "events", expected, READABLE_S_MAX)
    else:
        waited_s, started = None, time.monotonic()
        while waited_s is None and time.monotonic() - started < READABLE_S_MAX:
            if contenders.count_victoria_logs(server.port) >= expected:
                waited_s = time.monotonic() - started
            else:
                time.sleep(0.25)
    if waited_s is None:
        sample.problems.append(f"acknowledged events not readable after {READABLE_S_MAX:.0f} s")
    return waited_s


def measure_orjson(
    shape: load.Shape, requests: list[load.Prepared], round_: int, seconds: float, core: int
) -> Sample:
    """Parse and serialise the same bodies and do nothing else: the floor under any JSON server."""
    bodies = [request.body for request in requests]
    done = 0
    with machine.pinned(core):
        started, cpu_before_s = time.perf_counter(), time.process_time()
        while (elapsed_s := time.perf_counter() - started) < seconds:
            for body in bodies:
                orjson.dumps(orjson.loads(body))
            done += len(bodies)
        cpu_s = time.process_time() - cpu_before_s
    return Sample(
        round=round_,
        shape=shape.name,
        events=shape.events,
        server=ORJSON,
        meaning="parsed and serialised",
        events_per_s=done * shape.events / elapsed_s,
        requests_per_s=done / elapsed_s,
        cpu_us=1e6 * cpu_s / (done * shape.events),
    )


def loss(sample: Sample) -> int:
    return max(0, sample.events_acknowledged - (sample.events_stored or 0))
