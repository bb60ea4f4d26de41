"""The thread that owns a log: whatever changes the log is a job of this thread's.

Jobs are done one after the other in the order in which they came. What a job was given belongs to
the thread until the job's end has been told.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from segsrv.errors import JournalFault, ShuttingDown

T = TypeVar("T")
Job = Callable[[], object]
Told = Callable[[BaseException | None], object]

JOBS_MAX = 64
"""Calls that may wait; each caller waits for its last one, so there are a few."""


class LogThread:
    """A thread with a queue of jobs; they may be given from any thread and loop."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Job, asyncio.AbstractEventLoop, Told] | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._is_closed = False
        # The end of a process never waits for a disk that hangs.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, job: Job, loop: asyncio.AbstractEventLoop, told: Told) -> None:
        """Have *job* done; *told* is called on *loop* with None, or with what it raised.

        For those who have one job waiting at most.

        Raises:
            ShuttingDown: The thread was closed.

        """
        with self._gate:
            if self._is_closed:
                raise ShuttingDown("the journal is closed")
            self._jobs.put((job, loop, told))

    def call(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Have *job* done; return a future of the running loop for what it returns or raises.

        Raises:
            JournalFault: Too many jobs wait.
            ShuttingDown: The thread was closed.

        """
        if self._jobs.qsize() >= JOBS_MAX:
            raise JournalFault(f"{JOBS_MAX} jobs wait for the journal's disk")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        returned: list[T] = []
        self.run(lambda: returned.append(job()), loop, partial(_settle, future, returned))
        return future

    async def close(self, last: Job) -> None:
        """Have *last* done behind all other jobs, and end; once is enough."""
        with self._gate:
            is_first, self._is_closed = not self._is_closed, True
            if is_first:
                loop = asyncio.get_running_loop()
                ended: asyncio.Future[None] = loop.create_future()
                self._jobs.put((last, loop, partial(_settle, ended, [None])))
                self._jobs.put(None)
        if is_first:
            await ended
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (entry := self._jobs.get()) is not None:
            _do(*entry)
            # What it holds would stay in memory for as long as no other comes.
            del entry


def _do(job: Job, loop: asyncio.AbstractEventLoop, told: Told) -> None:
    raised = None
    try:
        job()
    except BaseException as error:  # noqa: BLE001 - the loop knows what to do about it.
        raised = error
    # Nobody waits on a loop that was closed.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(told, raised)
    # The error's traceback holds this frame: a circle that would outlast the job.
    del raised


def _settle(future: asyncio.Future[T], returned: list[T], error: BaseException | None) -> None:
    if future.done():
        # Whoever waited was cancelled.
        return
    if error is None:
        future.set_result(returned[0])
    else:
        future.set_exception(error)
