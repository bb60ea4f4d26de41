"""Which processes of a server are alive, and how many connections each holds, in shared memory.

Each process writes a line of its own, every `BEAT_S` from its event loop: its parent sees by it
that the loop goes on, and workers see how many connections their siblings have. As on the board,
every field is one aligned word with one writer; the parent writes a line only while no process
does.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from collections.abc import Callable

LAYOUT = 1
"""Of a line; two releases that differ in it can't share a roster."""
WORD_BYTES = 8
LINE_WORDS = 8
"""A cache line: what different processes write lies in different ones."""
BEAT_S = 0.25
PRESENT_S = 1.0
"""One that has not written for so long is not counted on to take connections."""

_SEEN_MS, _HELD = range(2)


class Place:
    """The line of process *number*; it is for that process to write."""

    def __init__(self, roster: Roster, number: int) -> None:
        self._roster = roster
        self._number = number
        self._words = roster.line(number)

    def beat(self) -> None:
        """Say that the process goes on."""
        self._words[_SEEN_MS] = _now_ms()

    @property
    def seen_s(self) -> float:
        """When it last said so, by the monotonic clock; 0 for never."""
        return self._words[_SEEN_MS] / 1_000

    def hold(self, connections: int) -> None:
        """Say that the process takes connections, and has so many."""
        self._words[_HELD] = connections + 1

    def leave(self) -> None:
        """Say that the process takes no connections, or no more."""
        self._words[_HELD] = 0

    def clear(self) -> None:
        """Forget the process, as its parent, when it has ended."""
        self._words[_SEEN_MS] = self._words[_HELD] = 0

    def fewest_of_others(self) -> int | None:
        """Return what the emptiest of the others holds that take connections; None without any."""
        return self._roster.fewest(self._number)

    async def keep(self, count: Callable[[], int] | None = None) -> None:
        """Write the line for ever; *count* returns how many connections are open."""
        while True:
            if count is not None:
                self.hold(count())
            self.beat()
            await asyncio.sleep(BEAT_S)


class Roster:
    """Lines for *processes* processes, in memory of its own or in that of *memory_fd*."""

    def __init__(self, processes: int, memory_fd: int | None = None) -> None:
        memory_bytes = processes * LINE_WORDS * WORD_BYTES
        if memory_fd is None:
            memory_fd = os.memfd_create("segsrv-roster", os.MFD_CLOEXEC)
            os.ftruncate(memory_fd, memory_bytes)
        self.memory_fd = memory_fd
        self._memory = mmap.mmap(memory_fd, memory_bytes)
        self._words = memoryview(self._memory).cast("Q")
        self._lines = [
            self._words[start : start + LINE_WORDS]
            for start in range(0, len(self._words), LINE_WORDS)
        ]
        self.places = [Place(self, number) for number in range(processes)]

    def line(self, number: int) -> memoryview:
        """Return the words of process *number*."""
        return self._lines[number]

    def fewest(self, besides: int) -> int | None:
        """Return the lowest number of connections but for *besides*; None if nobody takes any."""
        since_ms = _now_ms() - int(PRESENT_S * 1_000)
        held = [
            line[_HELD] - 1
            for number, line in enumerate(self._lines)
            if number != besides and line[_HELD] and line[_SEEN_MS] >= since_ms
        ]
        return min(held, default=None)

    def close(self) -> None:
        """Let go of the memory, in this process."""
        # A view that is left would keep the memory from being closed.
        for view in (*self._lines, self._words):
            view.release()
        self._memory.close()
        os.close(self.memory_fd)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
