"""Delivery's own work on the disk, in one thread for each sink."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from segsrv.delivery.attempts import Attempts

DISK_TIMEOUT_S = 60.0
DISK_RETRY_S_MAX = 5.0

T = TypeVar("T")


class DiskThread:
    """One thread: a call that was given up may still be under way when the next one is made."""

    def __init__(self, name: str) -> None:
        self.attempts = Attempts(
            f"the disk of {name}", timeout_s=DISK_TIMEOUT_S, retry_s_max=DISK_RETRY_S_MAX
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segsrv-delivery")

    async def until_done(self, work: Callable[[], T]) -> T:
        """Do blocking work until the disk lets it."""
        return await self.attempts.until_taken(lambda: self.once(work))

    async def once(self, work: Callable[[], T]) -> T:
        """Do blocking work; raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Wait for what a thread has begun: no other server may meet it."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
