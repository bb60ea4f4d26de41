"""Two bounds from below: a bare protocol that answers at once, and one that only commits.

The first (`--port`) takes requests with httptools on uvloop and writes the same 200 for each: what
Python takes for a request whatever is done with it. The second (`--journal FILE`) first puts what
it was sent on stable storage, all that came meanwhile with one write, as segsrv does; but it maps,
frames, checks and delivers nothing. No server of this kind can store events faster on that disk.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import cast

import httptools
import uvloop

BODY = b'{"status":"ok"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)
BODY_BYTES_MAX = 4 << 20
CONNECTIONS_MAX = 4096
ZEROED_BYTES = 64 << 20


class Commits:
    """Writes what all connections sent with one synced write at a time, in a thread."""

    def __init__(self, path: Path, line_bytes: int, *, is_zeroed: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._line_bytes = line_bytes
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._offset = 0
        self._zeroed_bytes = ZEROED_BYTES if is_zeroed else 0
        if is_zeroed:
            os.pwrite(self._file, bytes(ZEROED_BYTES), 0)
            os.fsync(self._file)
        self._lines: list[bytes] = []
        self._waiting: list[asyncio.Transport] = []
        self._is_writing = False
        self._groups: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = Thread(target=self._write_all, name="commits")
        self._thread.start()

    def take(self, body: bytes, transport: asyncio.Transport) -> None:
        """Answer *transport* once *body* is on stable storage."""
        # Blanks before the newline keep it JSON, and as long as what segsrv would write.
        self._lines.append(body.ljust(self._line_bytes - 1) + b"\n")
        self._waiting.append(transport)
        if not self._is_writing:
            self._is_writing = True
            self._loop.call_soon(self._write_next)

    def close(self) -> None:
        self._groups.put(None)
        self._thread.join()
        # What was zeroed and not needed is no line.
        os.ftruncate(self._file, self._offset)
        os.close(self._file)

    def _write_next(self) -> None:
        lines, self._lines = self._lines, []
        self._asked, self._waiting = self._waiting, []
        self._groups.put(b"".join(lines))

    def _write_all(self) -> None:
        while (group := self._groups.get()) is not None:
            rest = memoryview(group)
            if self._zeroed_bytes and self._offset + len(rest) > self._zeroed_bytes:
                self._offset = 0
            while rest:
                done = os.pwritev(self._file, [rest], self._offset, os.RWF_DSYNC)
                self._offset += done
                rest = rest[done:]
            self._loop.call_soon_threadsafe(self._written)

    def _written(self) -> None:
        for transport in self._asked:
            # A client may have hung up meanwhile; uvloop raises for a transport that is closed.
            if not transport.is_closing():
                transport.write(ANSWER)
        if self._waiting:
            self._loop.call_soon(self._write_next)
        else:
            self._is_writing = False


class Connection(asyncio.Protocol):
    """Reads requests one after the other."""

    def __init__(self, commits: Commits | None) -> None:
        self._commits = commits
        self._parser = httptools.HttpRequestParser(self)
        self._parts: list[bytes] = []
        self._received_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_body(self, part: bytes) -> None:
        self._received_bytes += len(part)
        if self._received_bytes > BODY_BYTES_MAX:
            self._transport.abort()
        else:
            self._parts.append(part)

    def on_message_complete(self) -> None:
        parts, self._parts, self._received_bytes = self._parts, [], 0
        if self._commits is None:
            self._transport.write(ANSWER)
        else:
            self._commits.take(b"".join(parts), self._transport)


async def serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    commits = None
    if options.journal:
        commits = Commits(options.journal, options.line_bytes, is_zeroed=options.zeroed)
    server = await loop.create_server(
        lambda: Connection(commits), "127.0.0.1", options.port, backlog=CONNECTIONS_MAX
    )
    port = server.sockets[0].getsockname()[1]
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    server.close()
    if commits is not None:
        await asyncio.to_thread(commits.close)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8082, help="0 picks a free one")
    parser.add_argument("--journal", type=Path, help="commit to this file before the answer")
    parser.add_argument("--line-bytes", type=int, default=0, help="pad each body to this length")
    parser.add_argument(
        "--zeroed", action="store_true", help="write over zeroes, round and round, not at the end"
    )
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
