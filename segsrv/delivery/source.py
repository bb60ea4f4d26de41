"""Journals as delivery sees them: what they hold, and what they may let go of."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

from segsrv.board import Slot
from segsrv.journal.group_commit import GroupCommit
from segsrv.journal.log import SegmentLog
from segsrv.journal.reader import Chunk, Reader


class Source(Protocol):
    """One journal. `read` may run in any thread; the rest belongs to delivery's loop."""

    name: str

    @property
    def id(self) -> str:
        """The journal's random id; empty as long as it is not open."""

    @property
    def first(self) -> int:
        """The position of the oldest byte that is held."""

    @property
    def end(self) -> int:
        """The position behind the newest acknowledged byte."""

    @property
    def damaged_frames(self) -> int:
        """Pieces that were found damaged while reading."""

    def read(self, position: int, *, bytes_max: int, end: int | None = None) -> Chunk:
        """Return frames from *position* on, as `Reader.read` does."""

    async def release(self, position: int) -> None:
        """Say that nothing below *position* is needed any more."""

    async def close(self) -> None:
        """Let go of the files."""


class OwnSource:
    """The journal that this process writes."""

    def __init__(self, name: str, commit: GroupCommit, *, retention_s: float) -> None:
        self.name = name
        self._commit = commit
        self._log = commit.log
        self._retention_s = retention_s

    @property
    def id(self) -> str:
        return self._log.id

    @property
    def first(self) -> int:
        return self._log.first

    @property
    def end(self) -> int:
        return self._log.end

    @property
    def damaged_frames(self) -> int:
        return self._log.damaged_frames

    def read(self, position: int, *, bytes_max: int, end: int | None = None) -> Chunk:
        return self._log.read(position, bytes_max=bytes_max, end=end)

    async def release(self, position: int) -> None:
        await self._commit.release(position, retention_s=self._retention_s)

    async def close(self) -> None:
        """Nothing: who writes it closes it."""


class LeftSource:
    """A journal that nobody writes any more: there were more workers once."""

    def __init__(self, name: str, log: SegmentLog, *, retention_s: float) -> None:
        self.name = name
        self._log = log
        self._retention_s = retention_s
        # Not the loop's: a sink that hangs in its threads would keep all others from going on.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segsrv-left")

    @property
    def id(self) -> str:
        return self._log.id

    @property
    def first(self) -> int:
        return self._log.first

    @property
    def end(self) -> int:
        return self._log.end

    @property
    def damaged_frames(self) -> int:
        return self._log.damaged_frames

    def read(self, position: int, *, bytes_max: int, end: int | None = None) -> Chunk:
        return self._log.read(position, bytes_max=bytes_max, end=end)

    async def release(self, position: int) -> None:
        release = partial(self._log.release, position, retention_s=self._retention_s)
        await asyncio.get_running_loop().run_in_executor(self._thread, release)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._log.close)
        self._thread.shutdown(wait=False)


class FollowedSource:
    """A journal that a worker process writes, read from its files.

    Only what the worker says is acknowledged is read: what a commit that failed left in a file was
    refused.
    """

    def __init__(self, name: str, directory: Path, slot: Slot, *, file_mode: int) -> None:
        self.name = name
        self._id = ""
        self._slot = slot
        self._reader = Reader(directory, file_mode=file_mode)
        # Every sink reads in a thread of its own.
        self._reading = threading.Lock()

    @property
    def id(self) -> str:
        # A worker that starts again has no journal for a moment. Who asked just then would take
        # what it knows of this one for another's, and deliver again what is held.
        if (held := self._slot.held()) is not None:
            self._id = held.journal_id
        return self._id

    @property
    def first(self) -> int:
        return self._slot.first

    @property
    def end(self) -> int:
        return self._slot.end

    @property
    def damaged_frames(self) -> int:
        return self._reader.damaged_frames

    def read(self, position: int, *, bytes_max: int, end: int | None = None) -> Chunk:
        limit = self._slot.end if end is None else end
        with self._reading:
            return self._reader.read(position, bytes_max=bytes_max, end=limit)

    async def release(self, position: int) -> None:
        self._slot.release(self.id, position)

    async def close(self) -> None:
        """Nothing is kept open."""
