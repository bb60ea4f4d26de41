"""A steady stream of events that outlives the server, and knows which ones were acknowledged.

Nothing is sent twice, so an event that a sink has twice is the doing of segsrv or of the sink.
"""

import asyncio
import contextlib
import random
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import orjson

from tests.site import COMPAT, FLAT, KEY, basic, id_of, new_id

CONNECTIONS = 4
BATCH_EVENTS_MAX = 60
ANSWER_TIMEOUT_S = 30.0
REFUSED_PAUSE_S = 0.02
BEHIND_S_MAX = 0.5
"""Time that was lost while nothing answered is not made up for."""
_MIXED = (
    {"type": "track", "event": "Order Completed", "properties": {"total": 12.5, "tax": 0}},
    {"type": "identify", "traits": {"email": "u@example.com", "plan": "pro", "age": 41}},
    {
        "type": "page",
        "name": "Home",
        "properties": {"url": "https://example.com/?a=1"},
    },
    {"type": "screen", "name": "Start", "properties": {"depth": [1, [2, None]], "ok": True}},
    {"type": "group", "groupId": "g", "traits": {"name": "Ünïcode & <b>\u2028"}},
    {"type": "alias", "previousId": "p"},
)


class Ledger:
    """Ids of events, and when each was acknowledged (monotonic, s); 16 bytes an event.

    Ids are numbered, so that what is known of millions of events takes no memory to speak of.
    """

    def __init__(self) -> None:
        self.acknowledged_at = array("d")
        self.acknowledged = 0
        self._prefix = f"{new_id()}."

    def new(self) -> str:
        """Return an id that is given once."""
        self.acknowledged_at.append(0.0)
        return f"{self._prefix}{len(self.acknowledged_at) - 1}"

    def acknowledge(self, event_ids: Iterable[str]) -> None:
        now = time.monotonic()
        for event_id in event_ids:
            self.acknowledged_at[self.number(event_id)] = now
            self.acknowledged += 1

    def number(self, event_id: str) -> int:
        """Return the number of an id given here; -1 for others."""
        if not event_id.startswith(self._prefix):
            return -1
        return int(event_id[len(self._prefix) :])

    def numbers(self) -> list[int]:
        """Return the numbers of all that are acknowledged by now."""
        return [number for number, at in enumerate(self.acknowledged_at) if at]

    def copies(self, event_ids: Iterable[str]) -> bytearray:
        """Return how often each id given here is among *event_ids*, by its number; 255 at most."""
        counts = bytearray(len(self.acknowledged_at))
        for event_id in event_ids:
            number = self.number(event_id)
            if number >= 0:
                counts[number] = min(counts[number] + 1, 255)
        return counts


class Stream:
    """`ledger` knows what it sent and what was acknowledged; `answers` counts by status."""

    def __init__(
        self, *, rate: float, seed: int, event_bytes: int = 600, is_mixed: bool = False
    ) -> None:
        self.ledger = Ledger()
        self.answers: Counter[int] = Counter()
        self._rate = rate
        self._random = random.Random(seed)
        self._pad = "".join(self._random.choices("abcdefghijklmnopqrstuvwxyz ", k=event_bytes))
        self._is_mixed = is_mixed

    @contextlib.asynccontextmanager
    async def running(self, port: Callable[[], int]) -> AsyncIterator[None]:
        """Send for the length of an `async with` block, to whatever *port* says at each try."""
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

    def events(self, count: int) -> list[dict]:
        """Make up *count* events with ids of their own."""
        return [self._event() for _number in range(count)]

    def _event(self) -> dict:
        head = {"messageId": self.ledger.new(), "userId": f"user-{self._random.randrange(1_000)}"}
        if not self._is_mixed:
            return head | {"type": "track", "event": "load", "properties": {"pad": self._pad}}
        size = self._random.randrange(len(self._pad))
        return head | self._random.choice(_MIXED) | {"context": {"pad": self._pad[:size]}}

    async def _connection(self, port: Callable[[], int]) -> None:
        while True:
            # A killed server, or worker of it, resets its connections in one way or another.
            with contextlib.suppress(OSError, EOFError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port())
                try:
                    await self._requests(reader, writer)
                finally:
                    writer.close()
            await asyncio.sleep(REFUSED_PAUSE_S)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        due = time.monotonic()
        is_open = True
        while is_open:
            count = self._random.randrange(1, BATCH_EVENTS_MAX)
            due = max(due, time.monotonic() - BEHIND_S_MAX) + count * CONNECTIONS / self._rate
            events = self.events(count)
            path = COMPAT if self._is_mixed and self._random.random() < 0.5 else FLAT
            writer.write(request(events, path=path))
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                status, is_open = await _answer(reader)
            self.answers[status] += 1
            if status == 200:
                self.ledger.acknowledge(event["messageId"] for event in events)
            else:
                await asyncio.sleep(REFUSED_PAUSE_S)
            await asyncio.sleep(due - time.monotonic())


class FileTail:
    """Reads what a file sink adds, and how long after its 200 each event was found (`delays_s`).

    An event that is found before its 200 counts as found at once.
    """

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self.counts = bytearray()
        self.delays_s = array("f")
        self._root = root
        self._ledger = ledger
        self._offsets: dict[Path, int] = {}

    def look(self, *, is_timed: bool = True) -> None:
        """Read what is new; where nobody looked for long, *is_timed* is false."""
        # What is added to it while a look is under way has been there for less than that.
        known, now = self._ledger.acknowledged_at, time.monotonic()
        self.counts.extend(bytes(len(known) - len(self.counts)))
        for path in sorted(self._root.glob("**/*.ndjson")):
            offset = self._offsets.get(path, 0)
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offsets[path] = offset + len(whole)
            for line in whole.splitlines():
                number = self._ledger.number(id_of(orjson.loads(line)))
                if number >= 0:
                    self._found(number)
                    if is_timed:
                        self._time(number, now)

    def has(self, numbers: Iterable[int]) -> bool:
        return all(number < len(self.counts) and self.counts[number] for number in numbers)

    def _found(self, number: int) -> None:
        if number >= len(self.counts):
            self.counts.extend(bytes(number + 1 - len(self.counts)))
        self.counts[number] = min(self.counts[number] + 1, 255)

    def _time(self, number: int, now: float) -> None:
        at = self._ledger.acknowledged_at[number]
        self.delays_s.append(max(now - at, 0.0) if at else 0.0)


def request(events: list[dict], *, path: str = FLAT) -> bytes:
    """Return a request that sends *events*."""
    body = orjson.dumps({"batch": events})
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {basic(KEY)}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read one answer; return its status and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].split("\r\n")[0])
    await reader.readexactly(length)
    return int(head.split()[1]), "connection: close" not in head
