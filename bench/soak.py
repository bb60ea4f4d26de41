"""Does memory stay flat? Half of what the server can take, for as long as one likes.

    python bench/soak.py --minutes 30

What it can take is measured first. Then single events and a batch of 100 for each 200 of them
arrive at a fixed rate, each from a forwarded address and a user agent that nobody sent before, so
that every cache is full after a while. Once a second the anonymous memory of each of the server's
processes is read. It is flat if a line through what was read after the first sixth of the time (or
five minutes) rises by less than 5 % until the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import contenders
import latency
import load
import locations
import machine
import orjson
import servers
import trial

SINGLES_FOR_A_BATCH = 200
BATCHES = 10
# Eight digits that stand for a number which differs in each request.
AGENT_NUMBER = "13131313"
SETTLED_S_MAX = 300.0
GROWTH_MAX = 0.05
WORKER_MIB_MAX = 150.0
SAMPLES_MAX = 1_000_000
# The files of half an hour need not fit on the disk.
FLAGS = ("--file-bytes-max=67108864", "--file-total-bytes-max=1073741824")


@dataclass(slots=True, kw_only=True)
class Sample:
    """A process's anonymous memory at a time since the load began."""

    at_s: float
    pid: int
    mib: float


def mixed_requests() -> list[load.Prepared]:
    """Make single events and batches whose addresses and user agents a generator can vary."""
    shapes = load.make_shapes(100, single_endpoint="/v1/t", batch_endpoint="/v1/batch")

    def prepare(name: str, count: int) -> list[load.Prepared]:
        shape = replace(shapes[name], prepared=count)
        key = contenders.WRITE_KEY
        return load.prepare(shape, path=contenders.PATH, write_key=key, event_bytes=0, seed=1)

    singles = prepare("single", SINGLES_FOR_A_BATCH * BATCHES)
    mixed = []
    for index, batch in enumerate(prepare("batch", BATCHES)):
        mixed += [*singles[index * SINGLES_FOR_A_BATCH :][:SINGLES_FOR_A_BATCH], batch]
    return [with_agent_number(request) for request in mixed]


def with_agent_number(request: load.Prepared) -> load.Prepared:
    message = orjson.loads(request.body)
    for event in message.get("batch", [message]):
        event["context"]["userAgent"] += f" App/{AGENT_NUMBER}"
    headers = {"X-Forwarded-For": "81.0.0.1"} | request.headers
    headers["User-Agent"] += f" App/{AGENT_NUMBER}"
    return replace(request, headers=headers, body=orjson.dumps(message))


def saturation(plan: trial.Plan, flags: tuple[str, ...]) -> float:
    """Return the single events a second that the server takes with heads that are all new."""
    shape = load.make_shapes(100, single_endpoint="/v1/t")["single"]
    requests = load.prepare(
        shape, path=contenders.PATH, write_key=contenders.WRITE_KEY, event_bytes=0, seed=1
    )
    sample = trial.measure(plan, shape, requests, contenders.segsrv("fsync", flags), 1)
    if sample.problems:
        raise RuntimeError("; ".join(sample.problems))
    return sample.requests_per_s


def soak(
    plan: trial.Plan, flags: tuple[str, ...], *, rate: float, seconds: float
) -> tuple[list[Sample], int, list[str]]:
    """Load one server; return its memory over time, the events it took, and what went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=plan.scratch))
    try:
        contender = contenders.segsrv("fsync", (*flags, *FLAGS))
        with servers.running(
            contender.arguments(folder),
            core=plan.server_core,
            more_cores=plan.more_cores,
            log=folder / "server.log",
        ) as server:
            requests = mixed_requests()
            load.write_requests(requests, folder / "requests", server.port)
            servers.check_answer(server.port, requests[0])
            command = latency.open_loop_command(plan, server.port, folder / "requests")
            command += ["--rate", str(rate), "--seconds", str(seconds)]
            command += ["--new-heads", "1", "--new-agents", AGENT_NUMBER]
            with machine.pinned(plan.generator_core):
                generator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            try:
                samples = sample_memory(server.process.pid, generator, seconds)
                output, _ = generator.communicate(timeout=60)
            finally:
                generator.kill()
                generator.wait()
            server.stop()
        result = load.result_line(output, command)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    problems = []
    if server.exit_code != 0:
        problems.append(f"the server ended with exit code {server.exit_code}")
    if result["failed"] or result["broken"]:
        problems.append(f"{result['failed']} not answered with 200, {result['broken']} not at all")
    each = sum(len(request.event_ids) for request in requests) / len(requests)
    return samples, int(result["answered"] * each), problems


def sample_memory(root: int, generator: subprocess.Popen[str], seconds: float) -> list[Sample]:
    """Read the memory of *root* and all below it once a second while *generator* runs."""
    started, samples = time.monotonic(), list[Sample]()
    deadline = started + 2 * seconds + 60
    while time.monotonic() < deadline and len(samples) < SAMPLES_MAX:
        at_s = time.monotonic() - started
        samples += [
            Sample(at_s=at_s, pid=pid, mib=machine.anonymous_bytes(pid) / (1 << 20))
            for pid in machine.tree(root)
        ]
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Its output is one line at the end, which the pipe holds.
            generator.wait(1.0)
            break
    return samples


def judge(samples: list[Sample], seconds: float) -> tuple[list[str], list[str]]:
    """Return what is to be said of each process, and what is over a limit."""
    said, faults = [], []
    settled_s = min(SETTLED_S_MAX, seconds / 6)
    for pid in sorted({sample.pid for sample in samples}):
        own = [sample for sample in samples if sample.pid == pid]
        late = [sample for sample in own if sample.at_s >= settled_s]
        most = max(sample.mib for sample in own)
        if most > WORKER_MIB_MAX:
            faults.append(f"process {pid} took {most:.0f} MiB, over {WORKER_MIB_MAX:.0f}")
        if len(late) < 3:
            said.append(f"process {pid}: {most:.0f} MiB at most")
            continue
        line = statistics.linear_regression(
            [sample.at_s for sample in late], [sample.mib for sample in late]
        )
        growth_mib = line.slope * (late[-1].at_s - late[0].at_s)
        share = growth_mib / statistics.median(sample.mib for sample in late)
        is_flat = share < GROWTH_MAX
        said.append(
            f"process {pid}: {most:.0f} MiB at most; after {settled_s:.0f} s "
            f"{growth_mib:+.1f} MiB until the end ({share:+.1%}): "
            f"{'flat' if is_flat else 'not flat'}"
        )
        if not is_flat:
            faults.append(f"process {pid} grew by {share:.1%}")
    return said, faults


def table(samples: list[Sample], rows_max: int = 12) -> str:
    """Render the smallest and the largest of each stretch of time, in MiB."""
    pids = sorted({sample.pid for sample in samples})
    stretch_s = max(60.0, max(sample.at_s for sample in samples) / rows_max)
    lines = [f"| minutes | {' | '.join(f'process {pid}' for pid in pids)} |"]
    lines.append("|---" * (len(pids) + 1) + "|")
    for index in range(int(max(sample.at_s for sample in samples) / stretch_s) + 1):
        begin_s, end_s = index * stretch_s, (index + 1) * stretch_s
        cells = [f"{begin_s / 60:.0f} to {end_s / 60:.0f}"]
        for pid in pids:
            found = [s.mib for s in samples if s.pid == pid and begin_s <= s.at_s < end_s]
            cells.append(f"{min(found):.1f} to {max(found):.1f}" if found else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse_options() -> argparse.Namespace:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--minutes", type=float, default=30.0)
    add("--rate", type=float, help="requests a second; default: half of what it can take")
    add("--connections", type=int, default=64)
    add("--generator", choices=("auto", "wrk", "sender"), default="auto", help="for saturation")
    add("--server-core", type=int, default=cores[0])
    add("--generator-core", type=int, default=cores[-1])
    add("--server-arg", action="append", default=[], help="as --server-arg=--flag=value")
    add("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    add("--json", type=Path, help="write every sample and the machine to this file")
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    servers.stop_children_on_sigterm()
    plan = trial.Plan(
        generator=load.pick_generator(options.generator),
        server_core=options.server_core,
        generator_core=options.generator_core,
        connections=options.connections,
        seconds=5,
        warm_up_s=2,
        scratch=options.scratch,
        new_heads=True,
    )
    facts = machine.describe(options.scratch)
    seconds = options.minutes * 60
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        places = locations.write_database(Path(folder) / "places.mmdb")
        flags = ("--geoip-db", str(places), *options.server_arg)
        rate = options.rate or saturation(plan, flags) / 2
        samples, events, problems = soak(plan, flags, rate=rate, seconds=seconds)
    said, faults = judge(samples, seconds)
    for name, text in facts.items():
        print(f"* {name}: {text}")
    print(f"\n{table(samples)}\n")
    print(f"{rate:,.0f} requests a second, {events:,} events in {options.minutes:g} minutes")
    print("\n".join([*said, *faults, *problems]))
    if options.json:
        report = {"machine": facts, "samples": [asdict(one) for one in samples], "said": said}
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return 1 if faults or problems else 0


if __name__ == "__main__":
    sys.exit(main())
