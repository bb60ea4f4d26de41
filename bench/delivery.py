"""What delivery costs, where it runs, and whether anybody notices when it dies.

    python bench/delivery.py modes    # a thread of the worker, or a process beside it
    python bench/delivery.py kill     # p99 while delivery is killed once a second
    python bench/delivery.py backlog  # many small segments against one large one
    python bench/delivery.py start    # a new event behind 110 segments that wait at the start

Ratios are of one run, taken in turns. `modes`, `kill` and `start` start real servers, load them,
and read back what they stored; `backlog` delivers journals that were made before to the file sink.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import load
import machine
import micro_journal
import servers
import stored

from segsrv.delivery.delivery import Delivery
from segsrv.delivery.source import LeftSource
from segsrv.journal.log import SegmentLog
from segsrv.settings import Settings
from segsrv.sinks.registry import build

WRITE_KEY = "bench-write-key"
PATH = "/api/v1/segment"
READABLE_S_MAX = 60.0
KILL_INTERVAL_S = 3.0
WAITING_SEGMENTS = 110
DELIVERY_PID = re.compile(rb"started delivery pid=(\d+)")


@dataclass(slots=True, kw_only=True)
class Run:
    """One server under load."""

    events_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    kills: int = 0


def measure(
    options: argparse.Namespace,
    shape: str,
    flags: list[str],
    cores: tuple[int, ...],
    *,
    kills: bool,
) -> Run:
    """Start a server on *cores*, load it, and check that every acknowledged event is stored."""
    shapes = load.make_shapes(100)
    requests = load.prepare(shapes[shape], path=PATH, write_key=WRITE_KEY, event_bytes=0, seed=1)
    folder = Path(tempfile.mkdtemp(prefix="delivery-", dir=options.scratch))
    command = ["-m", "segsrv", "serve", "--host", "127.0.0.1", "--port", "0", *flags]
    command += ["--data-dir", str(folder / "data"), "--write-key", WRITE_KEY]
    log = folder / "server.log"
    try:
        core, *more = cores
        with servers.running(command, core=core, log=log, more_cores=tuple(more)) as server:
            load.write_requests(requests, folder / "requests", server.port)
            servers.check_answer(server.port, requests[0])
            sent = [send(options, server, folder, options.warm_up)]
            before_s = machine.tree_cpu_s(server.process.pid)
            with killing(log, is_on=kills) as killed:
                sent.append(send(options, server, folder, options.seconds))
            cpu_s = machine.tree_cpu_s(server.process.pid) - before_s
            acknowledged = sum(one.acknowledged for one in sent) + 1
            events = acknowledged * shapes[shape].events
            waited_s = stored.wait_for_lines(folder / "data" / "events", events, READABLE_S_MAX)
            assert waited_s is not None, f"not readable after {READABLE_S_MAX:.0f} s"
            server.stop()
        assert server.exit_code == 0, log.read_text()[-2_000:]
        _events, faults = stored.check(
            folder / "data" / "events",
            [request.event_ids for request in requests],
            acknowledged=acknowledged,
            in_flight=sum(one.in_flight for one in sent),
        )
        assert not faults, faults
        assert not any(one.failed or one.broken for one in sent), "requests were refused"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()
    measured = sent[-1]
    count = measured.acknowledged * shapes[shape].events
    return Run(
        events_per_s=count / measured.seconds,
        p50_ms=measured.p50_ms,
        p99_ms=measured.p99_ms,
        cpu_us=1e6 * cpu_s / count,
        kills=len(killed),
    )


def send(
    options: argparse.Namespace, server: servers.Server, folder: Path, seconds: float
) -> load.Load:
    return load.send(
        options.generator,
        port=server.port,
        folder=folder / "requests",
        connections=options.connections,
        seconds=seconds,
        core=options.cores[-1],
    )


@contextlib.contextmanager
def killing(log: Path, *, is_on: bool) -> Iterator[list[int]]:
    """Kill the delivery process once a second; yield the ids of those that were killed."""
    killed: list[int] = []
    is_over = threading.Event()

    def kill() -> None:
        while not is_over.wait(KILL_INTERVAL_S):
            pid = int(DELIVERY_PID.findall(log.read_bytes())[-1])
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill)
    if is_on:
        thread.start()
    try:
        yield killed
    finally:
        is_over.set()
        if is_on:
            thread.join()


def modes(options: argparse.Namespace) -> None:
    """Compare delivery in a thread of the one worker with a process beside it."""
    print("| load | cores | delivery | events/s | of thread | CPU µs an event | p50 / p99 ms |")
    print("|---|---|---|---|---|---|---|")
    for shape in ("single", "batch"):
        for cores in (options.cores[:1], options.cores):
            runs: dict[str, list[Run]] = {"thread": [], "process": []}
            for _round in range(options.rounds):
                for mode, group in runs.items():
                    flags = [f"--delivery={mode}"]
                    group.append(measure(options, shape, flags, tuple(cores), kills=False))
            for mode, group in runs.items():
                ratios = [
                    run.events_per_s / other.events_per_s
                    for run, other in zip(group, runs["thread"], strict=True)
                ]
                rate = statistics.median(run.events_per_s for run in group)
                print(
                    f"| {shape} | {len(cores)} | {mode} | {rate:,.0f} "
                    f"| {statistics.median(ratios):.2f} "
                    f"| {statistics.median(run.cpu_us for run in group):.1f} "
                    f"| {statistics.median(run.p50_ms for run in group):.1f} "
                    f"/ {statistics.median(run.p99_ms for run in group):.1f} |",
                    flush=True,
                )


def kill(options: argparse.Namespace) -> None:
    """Compare p99 with and without delivery being killed once a second."""
    print("| load | round | p99 ms | killed, p99 ms | ratio | kills |")
    print("|---|---|---|---|---|---|")
    flags = ["--delivery=process", f"--workers={options.workers}"]
    cores = tuple(options.cores)
    for shape in ("single", "batch"):
        ratios = []
        for number in range(1, options.rounds + 1):
            calm = measure(options, shape, flags, cores, kills=False)
            hard = measure(options, shape, flags, cores, kills=True)
            assert hard.kills, "nothing was killed"
            ratios.append(hard.p99_ms / calm.p99_ms)
            print(
                f"| {shape} | {number} | {calm.p99_ms:.1f} | {hard.p99_ms:.1f} "
                f"| {ratios[-1]:.2f} | {hard.kills} |",
                flush=True,
            )
        print(f"| {shape} | median | | | {statistics.median(ratios):.2f} | |", flush=True)


def backlog(options: argparse.Namespace) -> None:
    """Compare the delivery of many small segments with that of one large one."""
    print("| frames | segments | MB/s | of one large |")
    print("|---|---|---|---|")
    for frame_bytes in (1 << 10, 16 << 10):
        rates: dict[int, list[float]] = {micro_journal.LARGE_BYTES: [], 64 << 10: []}
        for _round in range(options.rounds):
            for segment_bytes, group in rates.items():
                group.append(asyncio.run(drain(options, segment_bytes, frame_bytes)))
        large, small = rates.values()
        ratio = statistics.median(one / other for one, other in zip(small, large, strict=True))
        for name, group in (("one", large), ("64 KiB", small)):
            of_large = f"{ratio:.2f}" if group is small else ""
            print(
                f"| {frame_bytes:,} B | {name} | {statistics.median(group) / 1e6:,.0f} "
                f"| {of_large} |",
                flush=True,
            )


async def drain(options: argparse.Namespace, segment_bytes: int, frame_bytes: int) -> float:
    """Deliver a journal to the file sink; return its bytes a second."""
    folder = Path(tempfile.mkdtemp(prefix="backlog-", dir=options.scratch))
    try:
        directory = folder / "journal" / "w0"
        lines = micro_journal.fill(
            directory,
            segment_bytes_max=segment_bytes,
            frame_bytes=frame_bytes,
            total_bytes=options.backlog_bytes,
        )
        os.sync()
        log = SegmentLog(
            directory, segment_bytes_max=segment_bytes, disk_free_bytes_min=0, is_synced=True
        )
        settings = Settings(data_dir=folder, write_key=(WRITE_KEY,))
        source = LeftSource("w0", log, retention_s=0)
        delivery = Delivery(settings, build(settings), [source], guard=lambda: None)
        size, started_s = log.end, time.perf_counter()
        await delivery.start()
        while any(shipper.lag_bytes for shipper in delivery.shippers):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        took_s = time.perf_counter() - started_s
        await delivery.stop(READABLE_S_MAX)
        log.close()
        counter = stored.LineCounter(folder / "events")
        assert counter.update() == lines, "not every line was delivered once"
        return size / took_s
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(options: argparse.Namespace) -> None:
    """Say after how long an event is readable that comes right after such a start."""
    print("| segments | lines | readable after, s |")
    print("|---|---|---|")
    requests = load.prepare(
        load.make_shapes(1)["single"], path=PATH, write_key=WRITE_KEY, event_bytes=0, seed=1
    )
    for _round in range(options.rounds):
        folder = Path(tempfile.mkdtemp(prefix="start-", dir=options.scratch))
        try:
            directory = folder / "data" / "journal" / "w0"
            lines = micro_journal.fill(
                directory,
                segment_bytes_max=64 << 10,
                frame_bytes=1 << 10,
                total_bytes=WAITING_SEGMENTS * (64 << 10),
            )
            command = ["-m", "segsrv", "serve", "--host", "127.0.0.1", "--port", "0"]
            command += ["--data-dir", str(folder / "data"), "--write-key", WRITE_KEY]
            core = options.cores[0]
            with servers.running(command, core=core, log=folder / "server.log") as server:
                servers.check_answer(server.port, requests[0])
                waited_s = stored.wait_for_lines(
                    folder / "data" / "events", lines + 1, READABLE_S_MAX
                )
            assert waited_s is not None, f"not readable after {READABLE_S_MAX:.0f} s"
            print(f"| {WAITING_SEGMENTS} | {lines:,} | {waited_s:.2f} |", flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("what", choices=("modes", "kill", "backlog", "start"))
    add("--rounds", type=int, default=3, help="default: 3")
    add("--seconds", type=float, default=10.0, help="measured time of each load (default: 10)")
    add("--warm-up", type=float, default=2.0, help="seconds before that (default: 2)")
    add("--connections", type=int, default=64, help="keep-alive connections (default: 64)")
    add("--workers", type=int, default=2, help="of `kill` (default: 2)")
    add("--backlog-bytes", type=int, default=64 << 20, help="of `backlog` (default: 64 MiB)")
    add("--generator", choices=("auto", "wrk", "sender"), default="auto")
    add("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="disk to measure on")
    options = parser.parse_args()
    options.generator = load.pick_generator(options.generator)
    options.cores = sorted(os.sched_getaffinity(0))
    return options


def main() -> None:
    options = parse_options()
    servers.stop_children_on_sigterm()
    commands = {"modes": modes, "kill": kill, "backlog": backlog, "start": start}
    commands[options.what](options)


if __name__ == "__main__":
    main()
