"""Waits for conditions, never for a time to pass; a deadline makes a miss a failure."""

import asyncio
import time
from collections.abc import Callable

DEADLINE_S = 15.0
POLL_INTERVAL_S = 0.005


async def until(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S) -> None:
    """Let the loop run until *condition* holds."""
    async with asyncio.timeout(deadline_s):
        # What is waited for happens in threads and files, which set no event.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL_S)


def wait_until(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S) -> None:
    """Wait until *condition* holds, outside of a loop."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true within {deadline_s} s")
        time.sleep(POLL_INTERVAL_S)
