"""One thread that does one thing at a time, for a driver whose calls wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

CLOSE_POLL_S = 0.02

T = TypeVar("T")
Work = tuple[Callable[[], Any], "Future[Any]"]


class Worker:
    """Does what `run` is given, and calls *idle* every *idle_s* in between.

    Only the newest piece of work waits: whoever asks again has given up what was asked before. The
    thread begins with the first piece and ends with `close`; it keeps no process from ending.
    """

    def __init__(self, name: str, *, idle: Callable[[], None], idle_s: float) -> None:
        self._name = name
        self._idle = idle
        self._idle_s = idle_s
        self._changed = threading.Condition()
        self._next: Work | None = None
        self._last: Callable[[], None] = lambda: None
        self._is_closing = False
        self._thread: threading.Thread | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Return what *work* returns; if this is cancelled while it runs, it goes on to its end."""
        future: Future[T] = Future()
        with self._changed:
            if self._is_closing:
                raise RuntimeError(f"{self._name} is closed")
            if self._next is not None:
                self._next[1].cancel()
            self._next = (work, future)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return await asyncio.wrap_future(future)

    async def close(self, last: Callable[[], None]) -> None:
        """Have the thread do *last*, and wait until it has ended; what waits is not done.

        Nothing is left of the wait when this is cancelled: not in an executor either, whose threads
        a loop and the process wait for when they end.
        """
        with self._changed:
            self._last = last
            self._is_closing = True
            self._changed.notify()
        # A library's call may last long and take no notice.
        while self._thread is not None and self._thread.is_alive():  # noqa: ASYNC110
            await asyncio.sleep(CLOSE_POLL_S)

    def _loop(self) -> None:
        while True:
            with self._changed:
                if self._next is None and not self._is_closing:
                    self._changed.wait(self._idle_s)
                if self._is_closing:
                    break
                todo, self._next = self._next, None
            if todo is None:
                self._idle()
            else:
                _do(*todo)
                # It may hold a whole batch, and the next one may be long in coming.
                todo = None
        if self._next is not None:
            self._next[1].cancel()
        self._last()


def _do(work: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - Whoever waits gets it, whatever it is.
        future.set_exception(error)
    else:
        future.set_result(result)
