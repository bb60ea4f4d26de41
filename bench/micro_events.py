"""What the event path costs, without any server: microseconds an event, beside orjson alone.

    python bench/micro_events.py [--geoip-db FILE]

Measured is `parse` + `Pipeline.run`, which is everything between the body's bytes and the journal's
lines: parse, map, enrich, serialise. The baseline is `orjson.loads` + `orjson.dumps` of the same
bytes. Every line is checked once before anything is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import load
import machine
import maxminddb
import orjson
from stored import event_id

from segsrv.events import COMPAT, FLAT, Format, Pipeline, Sender, parse
from segsrv.events.geo import Geo
from segsrv.events.user_agents import UserAgents

if TYPE_CHECKING:
    from collections.abc import Callable

    from ua_parser import Resolver

CACHE_ENTRIES_MAX = 50_000
RESOLVERS = ("regex", "re2", "basic")


def make_pipeline(databases: list[Path]) -> Pipeline:
    readers = [maxminddb.open_database(path, maxminddb.MODE_MEMORY) for path in databases]
    return Pipeline(
        event_bytes_max=1_000_000,
        parse_user_agent=UserAgents(entries_max=CACHE_ENTRIES_MAX).parse,
        locate=Geo(readers, entries_max=CACHE_ENTRIES_MAX).locate,
    )


def run_pipeline(
    pipeline: Pipeline, requests: list[load.Prepared], output: Format
) -> list[list[bytes]]:
    """Do for each request what the server does for it."""
    answers = []
    for request in requests:
        payload = parse(request.body, batch_events_max=2_500, batch_shared_bytes_max=16 << 20)
        sender = Sender(
            api_key="bench",
            address=request.headers.get("X-Forwarded-For", ""),
            user_agent=request.headers["User-Agent"],
        )
        answers.append(pipeline.run(payload, sender, output).lines)
    return answers


def run_orjson(requests: list[load.Prepared]) -> None:
    for request in requests:
        orjson.dumps(orjson.loads(request.body))


def check(answers: list[list[bytes]], requests: list[load.Prepared]) -> str:
    """Insist on one line an event, in order and with the event's id; fail the run otherwise."""
    for lines, request in zip(answers, requests, strict=True):
        events: list[dict[str, Any]] = [orjson.loads(line) for line in lines]
        if tuple(event_id(event) for event in events) != request.event_ids:
            raise SystemExit(f"wrong ids in the output of {request.event_ids[0]}")
        if not all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines):
            raise SystemExit(f"the output of {request.event_ids[0]} is not one line an event")
    return f"{sum(map(len, answers)):,} lines checked"


def microseconds(function: Callable[[], object], events: int, seconds: float) -> float:
    """Run *function* for about *seconds*; return microseconds an event."""
    runs = 0
    started = time.perf_counter()
    while (elapsed_s := time.perf_counter() - started) < seconds:
        function()
        runs += 1
    return elapsed_s / runs / events * 1e6


def measure_pipeline(options: argparse.Namespace) -> None:
    pipeline = make_pipeline(options.geoip_db)
    print("| load | format | event path µs (min to max) | orjson µs | ratio | correct |")
    print("|---|---|---|---|---|---|")
    for shape in load.make_shapes(options.batch_events).values():
        requests = load.prepare(shape, path="", write_key="bench", event_bytes=0, seed=1)
        events = shape.events * len(requests)
        for output in (FLAT, COMPAT):
            correct = check(run_pipeline(pipeline, requests, output), requests)
            path = partial(run_pipeline, pipeline, requests, output)
            floor = partial(run_orjson, requests)
            # Taking turns lets a slow moment of the machine hit both.
            rounds = [
                (
                    microseconds(path, events, options.seconds),
                    microseconds(floor, events, options.seconds),
                )
                for _ in range(options.rounds)
            ]
            ours = [one for one, _ in rounds]
            print(
                f"| {shape.name} | {output.name} | {statistics.median(ours):.2f} "
                f"({min(ours):.2f} to {max(ours):.2f}) "
                f"| {statistics.median(other for _, other in rounds):.2f} "
                f"| {statistics.median(one / other for one, other in rounds):.1f} | {correct} |"
            )


def make_resolver(name: str) -> Resolver | None:
    """Build one of ua-parser's resolvers, or return None where its library is missing."""
    from ua_parser.loaders import load_builtins  # noqa: PLC0415

    try:
        if name == "regex":
            from ua_parser.regex import Resolver as RegexResolver  # noqa: PLC0415

            return RegexResolver(load_builtins())
        if name == "re2":
            from ua_parser.re2 import Resolver as Re2Resolver  # noqa: PLC0415

            return Re2Resolver(load_builtins())
        from ua_parser.basic import Resolver as BasicResolver  # noqa: PLC0415

        return BasicResolver(load_builtins())
    except ImportError:
        return None


def measure_resolvers() -> None:
    """Compare what one cache miss costs, over the different user agents of the payloads."""
    from ua_parser import Parser  # noqa: PLC0415

    shape = load.make_shapes(100)["single"]
    requests = load.prepare(shape, path="", write_key="", event_bytes=0, seed=1)
    agents = sorted({request.headers["User-Agent"] for request in requests})
    print(f"\n| ua-parser resolver | build ms | µs a miss, of {len(agents)} agents | differs |")
    print("|---|---|---|---|")
    reference: list[object] = []
    for name in RESOLVERS:
        started = time.perf_counter()
        resolver = make_resolver(name)
        build_ms = (time.perf_counter() - started) * 1e3
        if resolver is None:
            print(f"| {name} | not installed | | |")
            continue
        parser = Parser(resolver)
        started = time.perf_counter()
        results = [parser.parse(agent) for agent in agents]
        # The first pass also builds what a resolver puts off; a running server pays the second.
        first_s, started = time.perf_counter() - started, time.perf_counter()
        for agent in agents:
            parser.parse(agent)
        miss_us = (time.perf_counter() - started) / len(agents) * 1e6
        reference = reference or list(results)
        differs = sum(one != other for one, other in zip(results, reference, strict=True))
        print(
            f"| {name} | {build_ms:.0f} | {miss_us:.1f} "
            f"(first pass {first_s / len(agents) * 1e6:.1f}) | {differs} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="each measurement (default: 1)")
    parser.add_argument("--batch-events", type=int, default=100)
    parser.add_argument("--geoip-db", type=Path, action="append", default=[])
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    options = parser.parse_args()
    for name, text in machine.describe().items():
        print(f"* {name}: {text}")
    print()
    with machine.pinned(options.core):
        measure_pipeline(options)
        measure_resolvers()


if __name__ == "__main__":
    main()
