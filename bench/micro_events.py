"""What the event path costs, without any server: CPU microseconds an event, beside orjson alone.

    python bench/micro_events.py [--geoip-db FILE]

Measured is `parse` + `Pipeline.run`, which is everything between the body's bytes and the journal's
lines: parse, map, enrich, serialise; with the fused loop, and with the readable reference. The
floor is `orjson.loads` + `orjson.dumps` of the same bytes. Before anything is measured, each line
of the loop is compared with the reference's. Without a database every address is found in a
stand-in, which answers with a whole location.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import load
import machine
import maxminddb
import orjson

from segsrv import allocator
from segsrv.events import COMPAT, FLAT, Format, Outcome, Pipeline, Sender, parse
from segsrv.events.geo import Geo, Reader
from segsrv.events.user_agents import UserAgents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ua_parser import Resolver

CACHE_ENTRIES_MAX = 50_000
RESOLVERS = ("regex", "re2", "basic")
NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
WIDTHS = (10, 100, 1_000, 10_000)
WIDE_EVENTS_KEYS = 20_000
"""As many keys all events of one width have together."""
HEAD = "| load | format | µs an event | reference µs | floor µs | floor ÷ loop | correct |"

Requests = list[tuple[bytes, Sender]]


class StandIn:
    """Says of each address where London is, as a city database would."""

    def get(self, _address: str, /) -> dict[str, Any]:
        return {
            "continent": {"names": {"en": "Europe"}},
            "country": {"iso_code": "GB", "names": {"en": "United Kingdom"}},
            "city": {"names": {"en": "London"}},
            "location": {"latitude": 51.5142, "longitude": -0.0931},
            "postal": {"code": "EC1A"},
            "subdivisions": [{"iso_code": "ENG"}],
        }


def make_pipeline(readers: Sequence[Reader] = ()) -> Pipeline:
    return Pipeline(
        event_bytes_max=1_000_000,
        parse_user_agent=UserAgents(entries_max=CACHE_ENTRIES_MAX).parse,
        locate=Geo(readers, entries_max=CACHE_ENTRIES_MAX).locate,
    )


def open_databases(paths: list[Path]) -> list[Reader]:
    if not paths:
        return [StandIn()]
    return [maxminddb.open_database(path, maxminddb.MODE_MEMORY) for path in paths]


def requests_of(shape: load.Shape, *, is_shared: bool = True) -> Requests:
    """Return bodies and their senders, which the server remembers by the head of the request."""
    prepared = load.prepare(
        shape, path="", write_key="bench", event_bytes=0, seed=1, is_shared=is_shared
    )
    return [
        (
            request.body,
            Sender(
                api_key="bench",
                address=request.headers.get("X-Forwarded-For", ""),
                user_agent=request.headers["User-Agent"],
            ),
        )
        for request in prepared
    ]


def wide_requests(keys: int) -> Requests:
    """Return events with that many properties, all different names."""
    body = orjson.dumps(
        {
            "type": "track",
            "messageId": "wide",
            "properties": {f"property {number}": number for number in range(keys)},
        }
    )
    return [(body, Sender(api_key="bench", address="192.0.2.1"))] * (WIDE_EVENTS_KEYS // keys)


def run_pipeline(
    pipeline: Pipeline, requests: Requests, output: Format, now: datetime | None = None
) -> Iterator[Outcome]:
    """Do for each request what the server does for it."""
    for body, sender in requests:
        payload = parse(body, batch_events_max=2_500, batch_shared_bytes_max=16 << 20)
        yield pipeline.run(payload, sender, output, now=now)


def exhaust(pipeline: Pipeline, requests: Requests, output: Format) -> None:
    for _ in run_pipeline(pipeline, requests, output):
        pass


def run_orjson(requests: Requests) -> None:
    for body, _ in requests:
        orjson.dumps(orjson.loads(body))


def check(pipeline: Pipeline, requests: Requests, output: Format, events: int) -> str:
    """Insist on the reference's lines, one an event; fail the run otherwise."""
    lines = [
        [line for out in run_pipeline(pipeline, requests, one, NOW) for line in out.lines]
        for one in (output, referring(output))
    ]
    if lines[0] != lines[1]:
        raise SystemExit("the loop's lines differ from those of the reference")
    if len(lines[0]) != events:
        raise SystemExit(f"{len(lines[0])} lines of {events} events")
    if not all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines[0]):
        raise SystemExit("the output is not one line an event")
    return f"{events:,} lines"


def referring(output: Format) -> Format:
    """Return *output* as the reference makes it."""
    return replace(output, is_of_segment=False)


def microseconds(function: Callable[[], object], events: int, seconds: float) -> float:
    """Run *function* for about *seconds*; return microseconds of CPU an event."""
    runs = 0
    started = time.process_time()
    while (elapsed_s := time.process_time() - started) < seconds:
        function()
        runs += 1
    return elapsed_s / runs / events * 1e6


def measure(
    name: str,
    pipeline: Pipeline,
    requests: Requests,
    events: int,
    options: argparse.Namespace,
    *,
    per: int = 1,
) -> None:
    """Print a line for each format; figures are those of an event, divided by *per*."""
    for output in (FLAT, COMPAT):
        correct = check(pipeline, requests, output, events)
        functions = (
            partial(exhaust, pipeline, requests, output),
            partial(exhaust, pipeline, requests, referring(output)),
            partial(run_orjson, requests),
        )
        # Taking turns lets a slow moment of the machine hit all.
        rounds = [
            [microseconds(function, events * per, options.seconds) for function in functions]
            for _ in range(options.rounds)
        ]
        ours, reference, floor = map(statistics.median, zip(*rounds, strict=True))
        ratio = statistics.median(one[2] / one[0] for one in rounds)
        print(
            f"| {name} | {output.name} | {ours:.2f} "
            f"| {reference:.2f} | {floor:.2f} | {ratio:.3f} | {correct} |",
            flush=True,
        )


def measure_pipeline(options: argparse.Namespace) -> None:
    pipeline = make_pipeline(open_databases(options.geoip_db))
    print(f"{HEAD}\n|---|---|---|---|---|---|---|")
    single = load.make_shapes(1)["single"]
    measure(single.name, pipeline, requests_of(single, is_shared=False), single.prepared, options)
    for batch_events in options.batch_events:
        shape = load.make_shapes(batch_events)["batch"]
        shape = replace(shape, prepared=max(1, 6_400 // batch_events))
        for is_shared in (True, False):
            name = shape.name if is_shared else f"{shape.name}, nothing shared"
            requests = requests_of(shape, is_shared=is_shared)
            measure(name, pipeline, requests, batch_events * shape.prepared, options)
    print(f"\n{HEAD.replace('an event', 'a key')}\n|---|---|---|---|---|---|---|")
    for keys in WIDTHS:
        requests = wide_requests(keys)
        measure(f"{keys:,} keys", pipeline, requests, len(requests), options, per=keys)


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
    parser.add_argument("--batch-events", type=int, nargs="+", default=[25, 100, 1_000])
    parser.add_argument("--geoip-db", type=Path, action="append", default=[])
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    options = parser.parse_args()
    for name, text in machine.describe().items():
        print(f"* {name}: {text}")
    print()
    # As the server does: looking for garbage would cost more the larger a batch is.
    allocator.collect_seldom()
    with machine.pinned(options.core):
        measure_pipeline(options)
        measure_resolvers()


if __name__ == "__main__":
    main()
