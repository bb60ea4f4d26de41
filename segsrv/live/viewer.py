"""What waits for one viewer, who may be slow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import orjson

Item = dict[str, Any]

ITEMS_MAX = 200
WAITING_BYTES_MAX = 4 << 20
SHOWN_BYTES_MAX = 64 << 10
"""One item as it is sent; a larger event is left out of it."""


class Waiting:
    """Items on their way to one viewer: the newest within limits, and how many were left out."""

    def __init__(self) -> None:
        self.has_some = asyncio.Event()
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._status: Item | None = None
        self._left_out = 0

    async def fill(self, items: AsyncIterator[Item]) -> None:
        """Take *items* for as long as they come; the oldest of what waits is dropped for them."""
        try:
            async for item in items:
                self.put(item)
        finally:
            # A generator's own `finally` would wait for the garbage collector.
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    def put(self, item: Item) -> None:
        if item["kind"] == "status":
            # The newest says it all, and is never dropped for events.
            self._status = item
        else:
            self._items.append(item)
            self._bytes += _size(item)
            while len(self._items) > ITEMS_MAX or self._bytes > WAITING_BYTES_MAX:
                self._bytes -= _size(self._items.popleft())
                self._left_out += 1
        self.has_some.set()

    def take(self) -> bytes:
        """Return all that waits as server-sent events."""
        self.has_some.clear()
        frames = [_frame(item) for item in self._items]
        if self._left_out:
            frames.append(_frame({"kind": "left_out", "items": self._left_out}))
        if self._status is not None:
            frames.append(_frame(self._status))
        self._items.clear()
        self._bytes, self._left_out, self._status = 0, 0, None
        return b"".join(frames)


def _size(item: Item) -> int:
    size = item.get("bytes", 0)
    return size if isinstance(size, int) else 0


def _frame(item: Item) -> bytes:
    data = orjson.dumps(item)
    if len(data) > SHOWN_BYTES_MAX and "event" in item:
        data = orjson.dumps({**item, "event": None, "is_too_large": True})
    # A text of JSON has no line end of its own.
    return b"data: " + data + b"\n\n"
