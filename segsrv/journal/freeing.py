"""Deletes files of a log in its thread, and waits in another one until they are gone.

To free a file of 64 MiB takes the kernel 20 ms, in the thread that lets go of it last; a commit
should not wait for that. So each file is open while it is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial

from segsrv.journal.log_thread import LogThread
from segsrv.journal.segments import OPEN_FLAGS, Segment

FILES_MAX = 2
"""At once: commits wait for the log's thread, and the process may have few open files."""


class OpenFile:
    """Closed at the latest when nobody knows it any more, as when a call was given up."""

    def __init__(self, path: str) -> None:
        self._fd = -1
        self._fd = os.open(path, OPEN_FLAGS)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


Kept = list[OpenFile]


async def elsewhere(thread: LogThread, release: Callable[[Kept], bool]) -> bool:
    """Call *release* in *thread*, and close what it kept in another one; return what it returns."""
    kept: Kept = []
    try:
        return await thread.call(partial(release, kept))
    finally:
        if kept:
            await _closed(kept)


def keep(segments: Iterable[Segment], kept: Kept) -> None:
    """Open the files of *segments*, as far as they can be: without it, deleting takes longer."""
    for segment in segments:
        with contextlib.suppress(OSError):
            kept.append(OpenFile(segment.file))


async def _closed(kept: Kept) -> None:
    loop = asyncio.get_running_loop()
    closed: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not closed.done():
            closed.set_result(None)

    def work() -> None:
        _close(kept)
        # Nobody waits on a loop that was closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle)

    # The end of a process never waits for a disk that hangs.
    threading.Thread(target=work, name="segsrv-freeing", daemon=True).start()
    await closed


def _close(kept: Kept) -> None:
    while kept:
        kept.pop().close()
