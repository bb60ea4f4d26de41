"""Is the cost of the event path linear? In the events of a batch, and in the keys of an event.

    python bench/linear.py

Both are microseconds of the processor, without any server, beside `orjson.loads` + `orjson.dumps`
of the same bytes in the same rounds. For batches it is what an event takes; for keys, what one
more key takes: the difference between two sizes over the keys between them.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import load
import locations
import machine
import orjson
from event_path import EventPath

from segsrv.events import FLAT

BATCHES = (1, 10, 25, 100, 1000)
COMPARED_BATCHES = (25, 100, 1000)
KEYS = (10, 100, 1_000, 10_000)
# As many events in all for each size, so that caches see the same.
EVENTS = 2_000
KEYS_IN_ALL = 200_000


@dataclass(slots=True, kw_only=True)
class Point:
    """µs an event of one size, in each round."""

    kind: str
    size: int
    path_us: list[float]
    orjson_us: list[float]


def measure(databases: list[Path], *, rounds: int, seconds: float) -> list[Point]:
    """Measure all sizes in turns."""
    path = EventPath(databases)
    loads = [("batch", size, batches(size)) for size in BATCHES]
    loads += [("keys", size, keyed(size)) for size in KEYS]
    points = []
    for kind, size, requests in loads:
        path.check(requests, FLAT)
        points.append(Point(kind=kind, size=size, path_us=[], orjson_us=[]))
    for _ in range(rounds):
        for point, (_kind, _size, requests) in zip(points, loads, strict=True):
            path_us, orjson_us = path.microseconds(requests, FLAT, seconds)
            point.path_us.append(path_us)
            point.orjson_us.append(orjson_us)
    return points


def batches(events: int) -> list[load.Prepared]:
    shape = load.Shape(name="", endpoint="", events=max(events, 2), prepared=EVENTS // events)
    if events > 1:
        return load.prepare(shape, path="", write_key="bench", event_bytes=0, seed=1)
    # A batch of one: what a batch of two costs says nothing of it.
    requests = load.prepare(shape, path="", write_key="bench", event_bytes=0, seed=1)
    alone = []
    for request in requests:
        message = orjson.loads(request.body)
        message["batch"] = message["batch"][:1]
        alone.append(
            load.Prepared(
                path="",
                headers=request.headers,
                body=orjson.dumps(message),
                event_ids=request.event_ids[:1],
            )
        )
    return alone


def keyed(keys: int) -> list[load.Prepared]:
    """Make single events with so many keys among their properties."""
    shape = load.Shape(
        name="", endpoint="", events=1, prepared=max(2, min(EVENTS, KEYS_IN_ALL // keys))
    )
    requests = []
    for request in load.prepare(shape, path="", write_key="bench", event_bytes=0, seed=1):
        message = orjson.loads(request.body)
        message["properties"] = {f"key_{index:05}": f"value {index}" for index in range(keys)}
        requests.append(
            load.Prepared(
                path="",
                headers=request.headers,
                body=orjson.dumps(message),
                event_ids=request.event_ids,
            )
        )
    return requests


def batches_us(points: list[Point]) -> list[float]:
    """Return what an event takes in the batches that are compared."""
    return [
        statistics.median(point.path_us)
        for point in points
        if point.kind == "batch" and point.size in COMPARED_BATCHES
    ]


def marginal_us(points: list[Point], name: str = "path_us") -> list[float]:
    """Return what a key more takes, from each size to the next."""
    keyed = [point for point in points if point.kind == "keys"]
    return [
        (statistics.median(getattr(after, name)) - statistics.median(getattr(before, name)))
        / (after.size - before.size)
        for before, after in itertools.pairwise(keyed)
    ]


def spread(values: list[float]) -> float:
    """Return by which share of the smallest the largest of *values* is above it.

    Differences may come out below zero when the machine is busy; then there is no saying.
    """
    return max(values) / min(values) - 1 if min(values) > 0 else math.inf


def table(points: list[Point]) -> str:
    lines = ["| events in a batch | µs an event | orjson µs | of orjson |", "|---" * 4 + "|"]
    lines += [_row(point) for point in points if point.kind == "batch"]
    differs = spread(batches_us(points))
    lines += ["", f"From 25 to 1,000 events the cost of one differs by {differs:.0%}.", ""]
    lines += ["| keys of an event | µs an event | orjson µs | of orjson | µs a key more | orjson |"]
    lines += ["|---" * 6 + "|"]
    more = ["", *(f"{value:.3f}" for value in marginal_us(points))]
    floor = ["", *(f"{value:.3f}" for value in marginal_us(points, "orjson_us"))]
    keyed = [point for point in points if point.kind == "keys"]
    for point, ours, orjson_us in zip(keyed, more, floor, strict=True):
        lines.append(f"{_row(point)} {ours} | {orjson_us} |")
    lines += ["", f"What one more key takes differs by {spread(marginal_us(points)):.0%}."]
    return "\n".join(lines)


def _row(point: Point) -> str:
    ratio = statistics.median(
        floor / path for floor, path in zip(point.orjson_us, point.path_us, strict=True)
    )
    ours, floor = statistics.median(point.path_us), statistics.median(point.orjson_us)
    return f"| {point.size:,} | {ours:.2f} | {floor:.2f} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="each measurement")
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="write every sample and the machine to this file")
    options = parser.parse_args()
    facts = machine.describe()
    with machine.pinned(options.core), tempfile.TemporaryDirectory() as folder:
        databases = [locations.write_database(Path(folder) / "places.mmdb")]
        points = measure(databases, rounds=options.rounds, seconds=options.seconds)
    for name, text in facts.items():
        print(f"* {name}: {text}")
    print(f"\n{table(points)}")
    if options.json:
        report = {"machine": facts, "samples": [asdict(point) for point in points]}
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
