"""A client that sends at a steady rate, whatever the server does, and says how long each took.

It reads a number of seconds from standard input, sends so long, and prints what it saw as one JSON
line; over and over, until its input ends. A request's time counts from when it was due, so that a
server that stands still is seen by every request that it keeps waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, cast

import orjson
import uvloop
from sender import is_complete, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS_MAX = 256
DRAIN_S_MAX = 30.0


class Client:
    """Sends what is due over the first connection that is free."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.latencies_s: list[float] = []
        self.failed = 0
        self._port = port
        self._requests: Iterator[bytes] = cycle(requests)
        self._free: list[Line] = []
        self._freed = asyncio.Event()
        self._lines: list[Line] = []

    async def send(self, rate: float, seconds: float) -> dict[str, float]:
        """Send *rate* requests a second for *seconds*, and wait for the last answer."""
        self.latencies_s, self.failed = [], 0
        count = int(rate * seconds)
        started = time.perf_counter()
        sent: list[asyncio.Future[None]] = []
        for index in range(count):
            due = started + index / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            sent.append(await self._send_one(due))
        _done, late = await asyncio.wait(sent, timeout=DRAIN_S_MAX)
        ordered = sorted(self.latencies_s)
        return {
            "sent": count,
            "failed": self.failed + len(late),
            "p50_ms": percentile(ordered, 0.5) * 1e3,
            "p99_ms": percentile(ordered, 0.99) * 1e3,
            "max_ms": ordered[-1] * 1e3 if ordered else 0.0,
        }

    async def _send_one(self, due: float) -> asyncio.Future[None]:
        if not self._free and len(self._lines) >= CONNECTIONS_MAX:
            self._freed.clear()
            await self._freed.wait()
        if not self._free:
            loop = asyncio.get_running_loop()
            _transport, line = await loop.create_connection(Line, "127.0.0.1", self._port)
            self._lines.append(line)
            self._free.append(line)
        line = self._free.pop()
        answered = line.send(next(self._requests))

        def done(_future: asyncio.Future[None]) -> None:
            self.latencies_s.append(time.perf_counter() - due)
            self.failed += not line.is_ok
            if line.is_open:
                self._free.append(line)
                self._freed.set()
            else:
                self._lines.remove(line)
                self._freed.set()

        answered.add_done_callback(done)
        return answered


class Line(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self.is_ok = self.is_open = False
        self._received = b""
        self._answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def send(self, request: bytes) -> asyncio.Future[None]:
        self._received, self.is_ok = b"", False
        self._answered = asyncio.get_running_loop().create_future()
        if self.is_open:
            self._transport.write(request)
        else:
            self._answered.set_result(None)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._answered is not None and is_complete(self._received):
            self.is_ok = self._received.startswith(b"HTTP/1.1 200 ")
            self._answered.set_result(None)
            self._answered = None

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_open = False
        if self._answered is not None:
            self._answered.set_result(None)
            self._answered = None


async def serve(port: int, requests: list[bytes], rate: float) -> None:
    client = Client(port, requests)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(orjson.dumps(await client.send(rate, float(line))).decode(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Send at a steady rate to a port of 127.0.0.1.")
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path, help="with one whole HTTP request per *.http file")
    parser.add_argument("--rate", type=float, default=200.0)
    options = parser.parse_args()
    requests = [path.read_bytes() for path in sorted(options.folder.glob("*.http"))]
    uvloop.run(serve(options.port, requests, options.rate))


if __name__ == "__main__":
    main()
