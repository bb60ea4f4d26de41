"""How fast each key sends, counted for all processes of a server together, in shared memory.

A key has a bucket of `burst_events` that fills with `rate_events_per_s`. A request is taken while
one event is in it, and then takes out all its events: more than there are, it borrows from what
comes. So a batch of any size gets through, and over time no more than the rate does.

Rules:
- A bucket is one word: the time at which it will be full again. One that is full by now is as good
  as one that nobody has used, so its place may be taken by another key.
- Whoever changes a word holds a lock of the kernel's, which no process that was killed keeps. It is
  tried for a millisecond: a process that was halted keeps it, and then a charge may be lost,
  which is better than a loop that stands still.
- Reading takes no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import mmap
import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache

from segsrv.errors import RateLimited
from segsrv.settings import Key

LAYOUT = 1
"""Of the words below; two releases that differ in it can't share them."""
WORD_BYTES = 8
PLACES = 1 << 14
PLACE_WORDS = 2
PROBES_MAX = 32
LOCK_TRIES_MAX = 1_000
"""About a millisecond. The lock is needed for microseconds, unless who has it has to wait for a
processor: so whoever waits lets others have one.
"""
RETRY_S_MAX = 3_600
ROUNDING_EVENTS = 0.1
TAGS_CACHED_MAX = 16_384
MEMORY_BYTES = PLACES * PLACE_WORDS * WORD_BYTES


class Rates:
    """The buckets of all keys, in memory of its own or in that of *memory_fd*.

    Without *is_shared* no other process has that memory, and no lock is needed. *clock* tells
    nanoseconds, the same in all processes.
    """

    def __init__(
        self,
        memory_fd: int | None = None,
        *,
        is_shared: bool = True,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._clock = clock
        self._memory: mmap.mmap | None = None
        self.memory_fd = -1
        if not is_shared:
            self._words = memoryview(bytearray(MEMORY_BYTES)).cast("Q")
            return
        if memory_fd is None:
            memory_fd = os.memfd_create("segsrv-rates", os.MFD_CLOEXEC)
            os.ftruncate(memory_fd, MEMORY_BYTES)
        self.memory_fd = memory_fd
        self._memory = mmap.mmap(memory_fd, MEMORY_BYTES)
        self._words = memoryview(self._memory).cast("Q")

    def check(self, key: Key) -> None:
        """Learn whether *key*, which has a rate, may send anything now.

        Raises:
            RateLimited: Its bucket is empty.

        """
        now_ns = self._clock()
        place = self._find(_tag(key.id))
        if place is not None:
            _check(key, self._words[place + 1] - now_ns)

    def charge(self, key: Key, events: int) -> None:
        """Take *events* out of the bucket of *key*, which has a rate.

        Raises:
            RateLimited: It is empty; nothing is taken.

        """
        words, tag = self._words, _tag(key.id)
        with self._locked():
            now_ns = self._clock()
            place = self._find(tag)
            if place is None:
                place = self._take_place(tag, now_ns)
            full_ns = max(words[place + 1], now_ns)
            _check(key, full_ns - now_ns)
            words[place] = tag
            words[place + 1] = full_ns + round(events * 1e9 / key.rate_events_per_s)

    def close(self) -> None:
        """Let go of the memory, in this process."""
        # A view that is left would keep the memory from being closed.
        self._words.release()
        if self._memory is not None:
            self._memory.close()
            os.close(self.memory_fd)

    def _find(self, tag: int) -> int | None:
        words = self._words
        for place in _places(tag):
            if words[place] == tag:
                return place
        return None

    def _take_place(self, tag: int, now_ns: int) -> int:
        """Return the place of a bucket that is full: nobody misses it.

        Where all near ones are in use, it is the one that is full first.
        """
        words = self._words
        place = min(_places(tag), key=lambda place: max(words[place + 1], now_ns))
        words[place + 1] = 0
        return place

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self._memory is None:
            yield
            return
        fd = self.memory_fd
        is_locked = False
        for _ in range(LOCK_TRIES_MAX):
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            except OSError:
                os.sched_yield()
                continue
            is_locked = True
            break
        try:
            yield
        finally:
            if is_locked:
                fcntl.lockf(fd, fcntl.LOCK_UN, 1)


def _check(key: Key, until_full_ns: int) -> None:
    """Refuse where less than one event is in the bucket that is full in *until_full_ns*."""
    rate = key.rate_events_per_s
    burst = key.burst_events or max(rate, 1.0)
    wait_s = until_full_ns / 1e9 - (burst - 1) / rate
    # What rounding to nanoseconds adds keeps nobody waiting.
    if wait_s > ROUNDING_EVENTS / rate:
        raise RateLimited(
            f"the write key may send {rate:g} events a second",
            retry_after_s=min(math.ceil(wait_s), RETRY_S_MAX),
        )


def _places(tag: int) -> range:
    """Return where the bucket of *tag* may be, in words."""
    start = tag % (PLACES - PROBES_MAX) * PLACE_WORDS
    return range(start, start + PROBES_MAX * PLACE_WORDS, PLACE_WORDS)


@lru_cache(TAGS_CACHED_MAX)
def _tag(key_id: str) -> int:
    return int.from_bytes(hashlib.sha256(key_id.encode()).digest()[:WORD_BYTES]) or 1
