"""A small load client that remembers which events the server acknowledged.

Each connection sends its next request when the last one is answered; nothing is sent twice, so an
event that is stored twice is the server's doing.
"""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from tests.site import FLAT, KEY, basic, new_id

CONNECTIONS = 8
BATCH_EVENTS_MAX = 20
ANSWER_TIMEOUT_S = 20.0
REFUSED_PAUSE_S = 0.01


class Load:
    """`acknowledged` holds the ids of events answered with 200; `answers` counts by status."""

    def __init__(self, *, seed: int, event_bytes: int = 200) -> None:
        self.acknowledged: set[str] = set()
        self.answers: Counter[int] = Counter()
        self._random = random.Random(seed)
        self._pad = "x" * event_bytes

    def make_request(self) -> tuple[Sequence[Any], bytes]:
        """Return the ids of some new events, and a body that has these events."""
        count = self._random.choice((1, 1, 2, BATCH_EVENTS_MAX))
        ids = [new_id() for _number in range(count)]
        events = [
            {"type": "track", "event": "load", "userId": "u", "messageId": event_id}
            | {"properties": {"pad": self._pad}}
            for event_id in ids
        ]
        return ids, json.dumps(events[0] if count == 1 else {"batch": events}).encode()

    def acknowledge(self, ids: Sequence[Any]) -> None:
        """Note that the events with *ids* were answered with 200."""
        self.acknowledged.update(ids)

    @contextlib.asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[None]:
        """Send to *port* for the length of an `async with` block or until the server is gone."""
        tasks = [asyncio.create_task(self._connection(port)) for _number in range(CONNECTIONS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _connection(self, port: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                return
            try:
                # A killed server, or worker of it, resets its connections in one way or another.
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await self._requests(reader, writer)
            finally:
                writer.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_open = True
        while is_open:
            ids, body = self.make_request()
            writer.write(
                b"POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (FLAT.encode(), basic(KEY).encode(), len(body), body)
            )
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                status, is_open = await _answer(reader)
            self.answers[status] += 1
            if status == 200:
                self.acknowledge(ids)
            else:
                await asyncio.sleep(REFUSED_PAUSE_S)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read one answer; return its status and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].split("\r\n")[0])
    await reader.readexactly(length)
    return int(head.split()[1]), "connection: close" not in head
