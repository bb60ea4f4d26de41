"""A load generator with a fixed arrival rate, for latencies as clients see them.

Requests are due at equal distances, whatever the server does, and wait for one of the connections
where all are taken; a request's time counts from when it was due. So a server that stands still is
seen by every request that it keeps waiting. The generator spins on a core of its own, and says how
late it was itself.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections import deque
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson
import uvloop
from addresses import with_new_heads
from sender import is_complete

if TYPE_CHECKING:
    from collections.abc import Iterator

DRAIN_S_MAX = 30.0
STALL_S = 0.05
LONG_TURN_S = 0.01
STALLS_MAX = 1_000
# Buckets of the histogram grow by 2 % each.
STEPS = 1 / math.log(1.02)
BUCKETS = 1_200


class Histogram:
    """Counts of times from 1 µs to hours, with an error of at most 2 %, in constant memory."""

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.longest_s = 0.0

    def add(self, time_s: float) -> None:
        self.counts[
            min(int(math.log(time_s * 1e6) * STEPS), BUCKETS - 1) if time_s > 1e-6 else 0
        ] += 1
        self.longest_s = max(self.longest_s, time_s)

    def ms(self, share: float) -> float:
        """Return the time in ms that *share* of all took at most, 0 if there are none."""
        left = sum(self.counts) * share
        for bucket, count in enumerate(self.counts):
            left -= count
            if count and left <= 0:
                return min(math.exp((bucket + 1) / STEPS) / 1e3, self.longest_s * 1e3)
        return 0.0

    def summary(self, prefix: str = "") -> dict[str, float]:
        shares = (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))
        summary = {f"{prefix}{name}_ms": self.ms(share) for name, share in shares}
        return summary | {f"{prefix}max_ms": self.longest_s * 1e3}


class Stalls:
    """Stretches of time in which requests took longer than 50 ms: (begin, end) in seconds."""

    def __init__(self) -> None:
        self.found: list[list[float]] = []
        self.count = 0

    def add(self, due: float, answered: float) -> None:
        if self.found and due <= self.found[-1][1]:
            self.found[-1][0] = min(self.found[-1][0], due)
            self.found[-1][1] = max(self.found[-1][1], answered)
            return
        self.count += 1
        if len(self.found) < STALLS_MAX:
            self.found.append([due, answered])


class Generator:
    """Sends what is due over free connections, one request each at a time."""

    def __init__(
        self, requests: Iterator[bytes], rate: float, seconds: float, ending: bytes
    ) -> None:
        self.requests, self.ending = requests, ending
        self.latencies, self.lateness = Histogram(), Histogram()
        self.stalls, self.own_stalls = Stalls(), Stalls()
        self.answered = self.failed = self.broken = 0
        self.free: deque[Connection] = deque()
        self.open = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._interval_s = 1 / rate
        self._count = max(1, int(rate * seconds))
        self._sent = 0
        self._started = self._turned = time.perf_counter()

    def start(self) -> None:
        self._started = self._turned = time.perf_counter()
        self._turn()

    def _turn(self) -> None:
        now, free = time.perf_counter(), self.free
        before, self._turned = self._turned, now
        if now - before > LONG_TURN_S:
            self.own_stalls.add(before, now)
        while self._sent < self._count and free:
            due = self._started + self._sent * self._interval_s
            if due > now:
                break
            if due >= before:
                # Due since the last turn, with a connection to send on: what passed is ours.
                self.lateness.add(now - due)
            self._sent += 1
            free.popleft().send(next(self.requests), due)
        if self.is_over:
            if not self.over.done():
                self.over.set_result(None)
        else:
            self._loop.call_soon(self._turn)

    @property
    def is_over(self) -> bool:
        return not self.open or (self._sent >= self._count and len(self.free) >= self.open)

    @property
    def unsent(self) -> int:
        return self._count - self._sent


class Connection(asyncio.Protocol):
    """One connection, free but while it waits for an answer."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._received = b""
        self._due = 0.0
        self._is_waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._generator.open += 1
        self._generator.free.append(self)

    def send(self, request: bytes, due: float) -> None:
        self._due, self._is_waiting = due, True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not is_complete(self._received):
            return
        data, self._received, self._is_waiting = self._received, b"", False
        generator, now = self._generator, time.perf_counter()
        generator.answered += 1
        if not data.startswith(b"HTTP/1.1 200 ") or not data.endswith(generator.ending):
            generator.failed += 1
        generator.latencies.add(now - self._due)
        if now - self._due > STALL_S:
            generator.stalls.add(self._due, now)
        generator.free.append(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._generator.open -= 1
        if self._is_waiting:
            self._generator.broken += 1
        elif self in self._generator.free:
            self._generator.free.remove(self)

    def close(self) -> None:
        self._transport.close()


async def run(options: argparse.Namespace, requests: Iterator[bytes]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    ending = b"" if options.any_body else b"}"
    generator = Generator(requests, options.rate, options.seconds, ending)
    connections = [
        (await loop.create_connection(lambda: Connection(generator), "127.0.0.1", options.port))[1]
        for _ in range(options.connections)
    ]
    cpu_before_s, started = time.process_time(), time.perf_counter()
    generator.start()
    await asyncio.wait([generator.over], timeout=options.seconds + DRAIN_S_MAX)
    elapsed_s = time.perf_counter() - started
    missing = generator.unsent + generator.open - len(generator.free)
    for connection in connections:
        connection.close()
    return {
        "answered": generator.answered,
        "failed": generator.failed,
        "broken": generator.broken + missing,
        "seconds": elapsed_s,
        **generator.latencies.summary(),
        **generator.lateness.summary("late_"),
        "cpu_s": time.process_time() - cpu_before_s,
        "stalls": generator.stalls.found,
        "stalls_count": generator.stalls.count,
        "own_stalls": generator.own_stalls.found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Send at a fixed rate to a port of 127.0.0.1.")
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path, help="with one whole HTTP request per *.http file")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--new-heads", type=int, metavar="START", help="forwarded addresses that vary from START on"
    )
    parser.add_argument(
        "--new-agents", default="", metavar="DIGITS", help="what stands for a number that varies"
    )
    parser.add_argument("--any-body", action="store_true", help="answers need not be JSON")
    options = parser.parse_args()
    prepared = [path.read_bytes() for path in sorted(options.folder.glob("*.http"))]
    requests: Iterator[bytes] = cycle(prepared)
    if options.new_heads is not None:
        requests = with_new_heads(prepared, options.new_heads, options.new_agents.encode())
    print("RESULT", orjson.dumps(uvloop.run(run(options, requests))).decode())


if __name__ == "__main__":
    main()
