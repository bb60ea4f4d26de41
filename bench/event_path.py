"""What the event path costs without any server, as samples: `report.py` and `linear.py` use it.

Measured is `parse` + `Pipeline.run`, which is everything between a body's bytes and the journal's
lines, beside `orjson.loads` + `orjson.dumps` of the same bytes in the same rounds. All times are
of the processor. Every line is checked once before anything is measured.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import load
import maxminddb
import orjson
from stored import event_id

from segsrv import allocator
from segsrv.events import COMPAT, FLAT, Format, Pipeline, Sender, parse
from segsrv.events.geo import Geo
from segsrv.events.user_agents import UserAgents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CACHE_ENTRIES_MAX = 50_000


@dataclass(slots=True, kw_only=True)
class Cost:
    """What the event path took in each round, and orjson alone, in µs of the processor an event."""

    load: str
    format: str
    path_us: list[float]
    orjson_us: list[float]
    correct: str

    @property
    def of_floor(self) -> float:
        """How near the path comes to what orjson alone takes, which would be 1."""
        rounds = zip(self.orjson_us, self.path_us, strict=True)
        return statistics.median(floor / path for floor, path in rounds)


class EventPath:
    """A pipeline as the server has it, with warm caches after the first request of each kind."""

    def __init__(self, databases: list[Path]) -> None:
        readers = [maxminddb.open_database(path) for path in databases]
        self._pipeline = Pipeline(
            event_bytes_max=1_000_000,
            parse_user_agent=UserAgents(entries_max=CACHE_ENTRIES_MAX).parse,
            locate=Geo(readers, entries_max=CACHE_ENTRIES_MAX).locate,
        )
        allocator.collect_seldom()

    def lines(
        self, requests: list[load.Prepared], senders: list[Sender], output: Format
    ) -> Iterator[list[bytes]]:
        """Yield the lines of one request after the other; senders are known from their heads."""
        for request, sender in zip(requests, senders, strict=True):
            payload = parse(request.body, batch_events_max=2_500, batch_shared_bytes_max=16 << 20)
            yield self._pipeline.run(payload, sender, output).lines

    def check(self, requests: list[load.Prepared], output: Format) -> str:
        """Insist on one line an event, in order and with the event's id; fail the run otherwise."""
        count = 0
        answers = self.lines(requests, senders_of(requests), output)
        for lines, request in zip(answers, requests, strict=True):
            events: list[dict[str, Any]] = [orjson.loads(line) for line in lines]
            if tuple(event_id(event) for event in events) != request.event_ids:
                raise RuntimeError(f"wrong ids in the output of {request.event_ids[0]}")
            if not all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines):
                raise RuntimeError(f"the output of {request.event_ids[0]} is not one line an event")
            count += len(lines)
        return f"{count:,} lines checked"

    def microseconds(
        self, requests: list[load.Prepared], output: Format, seconds: float
    ) -> tuple[float, float]:
        """Return what an event takes here and with orjson alone, in turns."""
        senders = senders_of(requests)
        events = sum(len(request.event_ids) for request in requests)

        def run() -> None:
            # The lines of a request are let go before the next, as the server does.
            for _ in self.lines(requests, senders, output):
                pass

        path_us = microseconds(run, events, seconds)
        return path_us, microseconds(partial(run_orjson, requests), events, seconds)


def senders_of(requests: list[load.Prepared]) -> list[Sender]:
    return [
        Sender(
            api_key="bench",
            address=request.headers.get("X-Forwarded-For", ""),
            user_agent=request.headers["User-Agent"],
        )
        for request in requests
    ]


def run_orjson(requests: list[load.Prepared]) -> None:
    for request in requests:
        orjson.dumps(orjson.loads(request.body))


def microseconds(function: Callable[[], object], events: int, seconds: float) -> float:
    """Run *function* for about *seconds*; return microseconds of the processor an event."""
    runs = 0
    started = time.process_time()
    while (elapsed_s := time.process_time() - started) < seconds:
        function()
        runs += 1
    return elapsed_s / runs / events * 1e6


def measure(databases: list[Path], *, batch_events: int, rounds: int, seconds: float) -> list[Cost]:
    """Measure both formats under each kind of load, beside orjson in the same rounds."""
    path = EventPath(databases)
    costs = []
    for name, requests in loads(batch_events):
        for output in (FLAT, COMPAT):
            cost = Cost(load=name, format=output.name, path_us=[], orjson_us=[], correct="")
            cost.correct = path.check(requests, output)
            for _ in range(rounds):
                path_us, orjson_us = path.microseconds(requests, output, seconds)
                cost.path_us.append(path_us)
                cost.orjson_us.append(orjson_us)
            costs.append(cost)
    return costs


def loads(batch_events: int) -> Iterator[tuple[str, list[load.Prepared]]]:
    """Yield single events, and batches whose events share a context or have all of their own."""

    def prepare(shape: load.Shape, *, is_shared: bool) -> list[load.Prepared]:
        return load.prepare(
            shape, path="", write_key="bench", event_bytes=0, seed=1, is_shared=is_shared
        )

    shapes = load.make_shapes(batch_events)
    yield shapes["single"].name, prepare(shapes["single"], is_shared=False)
    batch = replace(shapes["batch"], prepared=max(1, 6_400 // batch_events))
    yield batch.name, prepare(batch, is_shared=True)
    yield f"{batch.name}, nothing shared", prepare(batch, is_shared=False)


def table(costs: list[Cost]) -> str:
    lines = ["| load | format | event path µs (min to max) | orjson µs | of orjson | correct |"]
    lines.append("|---" * 6 + "|")
    lines += [
        f"| {cost.load} | {cost.format} | {statistics.median(cost.path_us):.2f} "
        f"({min(cost.path_us):.2f} to {max(cost.path_us):.2f}) "
        f"| {statistics.median(cost.orjson_us):.2f} | {cost.of_floor:.2f} | {cost.correct} |"
        for cost in costs
    ]
    return "\n".join(lines)
