"""What there is to watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from segsrv.live.viewer import Item
from segsrv.live.wanted import Wanted

STATUS_INTERVAL_S = 1.0


class Feed:
    """Yields what *details* tells of workers and sinks; nothing is asked without a watcher."""

    def __init__(self, details: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._details = details

    async def watch(self, wanted: Wanted) -> AsyncIterator[Item]:
        """Yield items that match *wanted*, for ever."""
        while True:
            if not wanted.kinds or "status" in wanted.kinds:
                details = await self._details()
                workers = [
                    {**worker, "worker": f"w{worker['worker']}"} for worker in details["workers"]
                ]
                yield {
                    "kind": "status",
                    "at_ms": int(time.time() * 1_000),
                    "workers": workers,
                    "sinks": details.get("sinks", []),
                }
            await asyncio.sleep(STATUS_INTERVAL_S)
