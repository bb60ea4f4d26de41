"""What workers and the delivery process tell each other at every commit, in shared memory.

The parent makes the board before it forks, and hands it on when it restarts in place. Every field
is one aligned word of eight bytes with one writer, so a reader sees the old value or the new one,
and nobody takes a lock: a process that was killed could hold it for ever. What is on the board
outlives each of them, but not the parent's process.

| field | written by | says |
|---|---|---|
| is_open, journal id, first, end | the worker | which journal it has, and what of it is held |
| released, and the id of its journal | delivery | below which position nothing is needed any more |
| sinks_full | delivery | which sink lags too far for events to be taken |
| is_waiting | delivery | that it sleeps until `wake` |

Where fields belong together, what makes them valid is written last and read first and last.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from typing import NamedTuple

LAYOUT = 1
"""Of the fields below; two releases that differ in it can't share a board."""
WORD_BYTES = 8
LINE_WORDS = 8
"""A cache line: what different processes write lies in different ones."""
SLOT_WORDS = 2 * LINE_WORDS
WAKE_BYTES_MAX = 64 << 10

_IS_WAITING, _SINKS_FULL = range(2)
_OPENS, _IS_OPEN, _ID, _ID_END, _FIRST, _END = range(6)
_RELEASED_ID, _RELEASED_ID_END, _RELEASED = range(LINE_WORDS, LINE_WORDS + 3)


class Held(NamedTuple):
    """An open journal: its id, and the positions of its first byte and its acknowledged end."""

    journal_id: str
    first: int
    end: int


class BoardFiles(NamedTuple):
    """The file descriptors that a board consists of: its memory, and both ends of its pipe."""

    memory: int
    wake: int
    waker: int


class Slot:
    """The fields of one worker. `open`, `close`, `first` and `end` are for that worker alone."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def open(self, journal_id: str, *, first: int, end: int) -> None:
        """Publish the journal that this worker has opened.

        *journal_id* is 32 hexadecimal characters.
        """
        words = self._words
        words[_IS_OPEN] = 0
        words[_ID], words[_ID_END] = _id_words(journal_id)
        words[_FIRST], words[_END] = first, end
        words[_OPENS] += 1
        words[_IS_OPEN] = words[_OPENS]

    def close(self) -> None:
        """Say that the journal has been closed in order. One that was killed never says so."""
        self._words[_IS_OPEN] = 0

    def held(self) -> Held | None:
        """Return what the worker has published last; None while no journal is open."""
        words = self._words
        while opened := words[_IS_OPEN]:
            held = Held(_id_text(words[_ID], words[_ID_END]), words[_FIRST], words[_END])
            # Another start of the worker may have begun another journal meanwhile.
            if words[_IS_OPEN] == opened:
                return held
        return None

    @property
    def first(self) -> int:
        """Position of the oldest byte that the journal holds."""
        return int(self._words[_FIRST])

    @first.setter
    def first(self, position: int) -> None:
        self._words[_FIRST] = position

    @property
    def end(self) -> int:
        """Position after the last acknowledged byte; delivery reads no further."""
        return int(self._words[_END])

    @end.setter
    def end(self, position: int) -> None:
        self._words[_END] = position

    def release(self, journal_id: str, position: int) -> None:
        """Say, as delivery, that nothing of this journal below *position* is needed any more."""
        words = self._words
        tag = _id_words(journal_id)
        if (words[_RELEASED_ID], words[_RELEASED_ID_END]) != tag:
            # Never the new journal's id beside a position of the old one.
            words[_RELEASED] = 0
            words[_RELEASED_ID], words[_RELEASED_ID_END] = tag
        words[_RELEASED] = position

    def released(self, journal_id: str) -> int:
        """Return the position below which this journal may delete what it holds; 0 for nothing."""
        words = self._words
        tag = _id_words(journal_id)
        if (words[_RELEASED_ID], words[_RELEASED_ID_END]) != tag:
            return 0
        position = int(words[_RELEASED])
        is_same = (words[_RELEASED_ID], words[_RELEASED_ID_END]) == tag
        return position if is_same else 0


class Board:
    """Shared memory for *workers* workers and one delivery process, and a pipe that wakes it.

    With *files* it is the board that another program of this process has made for as many.
    """

    def __init__(self, workers: int, files: BoardFiles | None = None) -> None:
        self.workers = workers
        memory_bytes = (LINE_WORDS + workers * SLOT_WORDS) * WORD_BYTES
        if files is None:
            memory_fd = os.memfd_create("segsrv-board", os.MFD_CLOEXEC)
            os.ftruncate(memory_fd, memory_bytes)
            files = BoardFiles(memory_fd, *os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        self.files = files
        self._memory = mmap.mmap(files.memory, memory_bytes)
        self._words = memoryview(self._memory).cast("Q")
        self._parts = [
            self._words[start : start + SLOT_WORDS]
            for start in range(LINE_WORDS, len(self._words), SLOT_WORDS)
        ]
        self._slots = [Slot(part) for part in self._parts]
        self._fence = threading.Lock()
        self.wake_fd, self._waker_fd = files.wake, files.waker

    def worker(self, number: int) -> Slot:
        """Return the slot of worker *number*, counted from 0."""
        return self._slots[number]

    @property
    def is_waiting(self) -> bool:
        """Whether delivery sleeps until it is woken; delivery writes it.

        It sets this, looks at every `end` once more, and only then sleeps on `wake_fd`. It should
        look again after a second all the same: the order of two processes' writes and reads is
        the machine's business.
        """
        return self._words[_IS_WAITING] != 0

    @is_waiting.setter
    def is_waiting(self, is_waiting: bool) -> None:
        self._words[_IS_WAITING] = is_waiting
        with self._fence:
            pass

    @property
    def sinks_full(self) -> int:
        """Number of a sink, counted from 1, that lags too far for events to be taken; 0 if none."""
        number: int = self._words[_SINKS_FULL]
        return number

    @sinks_full.setter
    def sinks_full(self, number: int) -> None:
        self._words[_SINKS_FULL] = number

    def wake(self) -> None:
        """Wake delivery if it sleeps; workers call this after they moved their `end`."""
        # A free lock is taken and given back by atomic operations, which put the write of `end`
        # before the read below; no other process knows this lock.
        with self._fence:
            pass
        if self.is_waiting:
            # A full pipe wakes as well as one byte does.
            with contextlib.suppress(BlockingIOError):
                os.write(self._waker_fd, b".")

    def clear_wake(self) -> None:
        """Take what `wake` wrote out of the pipe, as delivery, before it looks at the journals."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self.wake_fd, WAKE_BYTES_MAX)) == WAKE_BYTES_MAX:
                pass

    def close(self) -> None:
        """Let go of the memory and the pipe, in this process."""
        # A view that is left would keep the memory from being closed.
        for view in (*self._parts, self._words):
            view.release()
        self._memory.close()
        for fd in self.files:
            os.close(fd)


def _id_words(journal_id: str) -> tuple[int, int]:
    number = int(journal_id, 16)
    return number >> 64, number & (1 << 64) - 1


def _id_text(high: int, low: int) -> str:
    return f"{high << 64 | low:032x}"
