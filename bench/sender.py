"""A load generator for machines without wrk: N keep-alive connections, one request each at a time.

It sends prepared bytes and looks at no more of an answer than it must, so that it keeps up with
the server on a core of its own. When the time is over it sends nothing new and waits for the
answers that are still out, so that every request sent is either answered or counted as broken.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson
import uvloop
from addresses import with_new_heads

if TYPE_CHECKING:
    from collections.abc import Iterator

DRAIN_S_MAX = 10.0


class Tally:
    """What all connections share: the requests to send, until when, and what came back."""

    def __init__(self, requests: Iterator[bytes], deadline: float, ending: bytes) -> None:
        self.requests = requests
        self.deadline = deadline
        self.ending = ending
        self.latencies_s: list[float] = []
        self.failed = 0
        self.broken = 0


class Connection(asyncio.Protocol):
    """Sends the next request when the last one is answered, and is done after the deadline."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.received = b""
        self.sent_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Uvloop's transports are no subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(next(self.tally.requests))

    def data_received(self, data: bytes) -> None:
        if self.received:
            data = self.received + data
        if not is_complete(data):
            self.received = data
            return
        self.received = b""
        now = time.perf_counter()
        self.tally.latencies_s.append(now - self.sent_at)
        if not data.startswith(b"HTTP/1.1 200 ") or not data.endswith(self.tally.ending):
            self.tally.failed += 1
        if now < self.tally.deadline:
            self.send()
        else:
            self.done.set_result(None)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.done.done():
            self.tally.broken += 1
            self.done.set_result(None)


def is_complete(data: bytes) -> bool:
    """Tell whether *data* is a whole answer, which must have a Content-Length."""
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    start = data.lower().find(b"\r\ncontent-length:", 0, head_end) + 17
    if start < 17:
        raise ValueError(f"an answer without Content-Length: {data[:head_end]!r}")
    return len(data) >= head_end + 4 + int(data[start : data.index(b"\r\n", start)])


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def send_load(
    port: int, requests: Iterator[bytes], connections: int, seconds: float, *, ending: bytes = b"}"
) -> dict[str, Any]:
    """Send *requests* in turn for *seconds*; a good answer is a 200 that ends with *ending*."""
    loop = asyncio.get_running_loop()
    cpu_before, started = time.process_time(), time.perf_counter()
    tally = Tally(requests, started + seconds, ending)
    opened = [
        (await loop.create_connection(lambda: Connection(tally), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    done = [connection.done for connection in opened]
    await asyncio.wait(done, timeout=seconds + DRAIN_S_MAX)
    elapsed_s = time.perf_counter() - started
    unanswered = sum(not future.done() for future in done)
    ordered = sorted(tally.latencies_s)
    return {
        "answered": len(ordered),
        "failed": tally.failed,
        "broken": tally.broken + unanswered,
        "seconds": elapsed_s,
        "p50_ms": percentile(ordered, 0.5) * 1e3,
        "p99_ms": percentile(ordered, 0.99) * 1e3,
        "p999_ms": percentile(ordered, 0.999) * 1e3,
        "cpu_s": time.process_time() - cpu_before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Send prepared requests to a port of 127.0.0.1.")
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path, help="with one whole HTTP request per *.http file")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--new-heads", type=int, metavar="START", help="forwarded addresses that vary from START on"
    )
    parser.add_argument("--any-body", action="store_true", help="answers need not be JSON")
    options = parser.parse_args()
    prepared = [path.read_bytes() for path in sorted(options.folder.glob("*.http"))]
    start = options.new_heads
    requests = cycle(prepared) if start is None else with_new_heads(prepared, start)
    ending = b"" if options.any_body else b"}"
    result = uvloop.run(
        send_load(options.port, requests, options.connections, options.seconds, ending=ending)
    )
    print("RESULT", orjson.dumps(result).decode())


if __name__ == "__main__":
    main()
