"""A timer whose start moves on often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class MovingTimer:
    """Calls *on_due* so long after `since_s`, which may be set anew for each request.

    The loop is asked for another call only when one has come too early. If *on_due* returns True it
    is asked again after the same time.
    """

    __slots__ = ("_after_s", "_handle", "_loop", "_on_due", "since_s")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, after_s: float, on_due: Callable[[], bool]
    ) -> None:
        self.since_s = loop.time()
        self._loop = loop
        self._after_s = after_s
        self._on_due: Callable[[], bool] | None = on_due
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """See to it that the time is looked at; this may be called again at any time."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._after_s, self._look)

    def stop(self) -> None:
        """Never call back again."""
        self._on_due = None
        if self._handle is not None:
            self._handle.cancel()

    def _look(self) -> None:
        self._handle = None
        left_s = self.since_s + self._after_s - self._loop.time()
        if left_s <= 0:
            if self._on_due is None or not self._on_due():
                return
            left_s = self._after_s
        self._handle = self._loop.call_later(left_s, self._look)
