"""A client that sends all the time, and again what the server hung up on without an answer."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from tests.site import FLAT, KEY, basic, new_id

CONNECTIONS = 12
REQUESTS_MAX = 3
ANSWER_TIMEOUT_S = 20.0


class SteadyClient:
    """`acknowledged` holds the ids of events answered with 200.

    A refused connection, one closed before its first answer, half an answer or one that is no 200
    ends it with an error. What a keep-alive connection brought in the moment that the server closed
    it is sent again, with the same id: if the server had taken it all the same, it would be stored
    twice. Each connection carries `REQUESTS_MAX` requests, so that many begin at any moment.
    """

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()

    @contextlib.asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[None]:
        """Send to *port* for the length of an `async with` block."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _number in range(CONNECTIONS):
                group.create_task(self._send_until(stop, port))
            try:
                yield
            finally:
                stop.set()

    async def _send_until(self, stop: asyncio.Event, port: int) -> None:
        event_id = new_id()
        while not stop.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                for number in range(REQUESTS_MAX):
                    if stop.is_set():
                        break
                    event = {"type": "track", "event": "e", "messageId": event_id}
                    async with asyncio.timeout(ANSWER_TIMEOUT_S):
                        if not await _is_answered(reader, writer, json.dumps(event).encode()):
                            assert number > 0, "a new connection was closed without an answer"
                            break
                    self.acknowledged.add(event_id)
                    event_id = new_id()
            finally:
                writer.close()


async def _is_answered(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
) -> bool:
    """Send an event; say whether it was answered, and not met by the end of the connection."""
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n%s"
        % (FLAT.encode(), basic(KEY).encode(), len(body), body)
    )
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except ConnectionResetError:
        return False
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return False
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    await reader.readexactly(length)
    return True
