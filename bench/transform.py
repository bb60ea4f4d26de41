"""What transformations cost an event: processor time of the child and of the process that delivers.

    python bench/transform.py [--events 20000] [--rounds 5]

Stored events are given to functions that change nothing, one field, or every text with an @, in
batches of 5,000 as delivery does it. The baseline, in the same rounds and one after the other, is
`orjson.loads` + `orjson.dumps` of the same lines, which no function can do without. What comes out
is checked. Processor time is measured, since it depends less on neighbours.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import load
import machine
import orjson
from micro_events import make_pipeline, run_pipeline

from segsrv.events import FLAT
from segsrv.journal.facts import Facts
from segsrv.transform.process import Child, Hello
from segsrv.transform.transformer import Transformer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BATCH_EVENTS = 5_000
FUNCTIONS = """
import re

EMAIL = re.compile(r"[\\w.+-]+@[\\w-]+\\.[\\w.-]*\\w")


def nothing(event, context):
    return event


def one_field(event, context):
    event["seen"] = context.received_ms
    return event


def each_text(event, context):
    return walked(event)


def walked(value):
    if isinstance(value, dict):
        return {name: walked(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [walked(inner) for inner in value]
    if isinstance(value, str) and "@" in value:
        return EMAIL.sub("token", value)
    return value
"""
NAMES = ("nothing", "one_field", "each_text")


class Cost(NamedTuple):
    """Processor time of one pass over all events, in µs an event."""

    child_us: float
    server_us: float
    floor_us: float


def stored_lines(count: int) -> list[bytes]:
    """Return so many stored events of browsers and servers, in the flat format."""
    lines: list[bytes] = []
    for shape in load.make_shapes(100).values():
        requests = load.prepare(shape, path="", write_key="bench", event_bytes=0, seed=1)
        made = [line for part in run_pipeline(make_pipeline([]), requests, FLAT) for line in part]
        lines += made[: count // 2]
    return (lines * (count // len(lines) + 1))[:count]


def facts_of(line: bytes) -> Facts:
    event = orjson.loads(line)
    return Facts("bench", "flat", 1, "track", len(line), event["eventn_ctx_event_id"])


async def once(attempt: Callable[[], Awaitable[Child]]) -> Child:
    return await attempt()


def child_cpu_s(pid: int) -> float:
    """Return the processor time of a process so far; the system counts it in nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def measure(transformer: Transformer, lines: list[bytes], facts: list[Facts]) -> Cost:
    """Do all events once, in batches."""
    pid = transformer.pid
    assert pid is not None
    child_s, server_s = child_cpu_s(pid), time.process_time()
    made = 0
    for start in range(0, len(lines), BATCH_EVENTS):
        end = start + BATCH_EVENTS
        done = await transformer.apply(lines[start:end], facts[start:end])
        made += len(done.lines)
        if done.faults:
            raise SystemExit(f"an event was set aside: {done.faults[0]}")
    child_s, server_s = child_cpu_s(pid) - child_s, time.process_time() - server_s
    if made != len(lines) or transformer.pid != pid:
        raise SystemExit(f"{made} of {len(lines)} events came out")
    floor_s = time.process_time()
    for line in lines:
        orjson.dumps(orjson.loads(line))
    floor_s = time.process_time() - floor_s
    return Cost(*(each / len(lines) * 1e6 for each in (child_s, server_s, floor_s)))


async def run(events: int, rounds: int) -> None:
    lines = stored_lines(events)
    facts = list(map(facts_of, lines))
    mean = sum(map(len, lines)) // len(lines)
    print(f"{events:,} events of {mean:,} bytes on average, {rounds} rounds\n")
    costs: dict[str, list[Cost]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench_functions.py"
        path.write_text(FUNCTIONS)
        # What was written just now would be loaded once more.
        os.utime(path, (1, 1))
        transformers = {name: make(folder, name) for name in NAMES}
        for transformer in transformers.values():
            await transformer.apply(lines[:100], facts[:100])
        for _round in range(rounds):
            for name, transformer in transformers.items():
                costs[name].append(await measure(transformer, lines, facts))
        for transformer in transformers.values():
            await transformer.close()
    print("| function | child µs (min to max) | server µs (min to max) | orjson alone µs | ratio |")
    print("|---|---|---|---|---|")
    for name, found in costs.items():
        child, server, floor = (list(part) for part in zip(*found, strict=True))
        ratio = statistics.median(
            (cost.child_us + cost.server_us) / cost.floor_us for cost in found
        )
        print(
            f"| {name} | {spread(child)} | {spread(server)} "
            f"| {statistics.median(floor):.1f} | {ratio:.1f} |"
        )


def make(folder: str, name: str) -> Transformer:
    hello = Hello(
        chains={None: [f"bench_functions:{name}"]},
        sink="bench",
        directory=folder,
        event_bytes_max=1_000_000,
        total_bytes_max=8_000_000,
        memory_bytes_max=512 << 20,
    )
    return Transformer("bench", hello, timeout_s=10.0, made_bytes_max=1 << 30, retry=once)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name, text in machine.describe().items():
        print(f"* {name}: {text}")
    print()
    asyncio.run(run(options.events, options.rounds))


if __name__ == "__main__":
    main()
