"""Finds events that a sink was given before: an SDK sends again what it got no answer for.

Rules:

* An event's identity is its key id, its format and the id that the client sent. A write key is
  public: what is sent with one never suppresses what is sent with another. Events without an id are
  never duplicates. An index belongs to one sink.
* An event is kept if it was kept before, that is if the index has a record of its identity with its
  own origin, the journal and position that it is read from. Else it is a duplicate if the index has
  a record of its identity that was received at most `window_s` earlier or later. Else it is kept,
  and recorded.
* So judging again after a crash comes to the same end, whichever records of the first time are
  left: records of one identity are more than a window apart, so that none of them makes a duplicate
  of an event that was kept. All times are those at which events were received, so that no clock and
  no delay of delivery changes a decision.
* Identities are 128 bits of BLAKE2b under a secret of the index. Nobody can prepare two that are
  equal; by chance, one new event in 10^31 meets one of 10 million.
* Records go to parts of a sixth of `ids_max`, in the order in which they are judged. When the
  others hold `ids_max` the oldest part is deleted, but only in `settle`, since an event that is
  judged again must find what it found. That is bounded too: when more than a third of `ids_max` was
  recorded since the last `settle`, the oldest part goes at once.
* What can't be written costs records, never events and never their delivery: the next one of these
  ids is delivered too.

A B-tree (SQLite, LMDB) rewrites a page of 4 KiB for nearly every new id, since ids are random; here
a new id costs the 32 bytes of its record.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from segsrv import files
from segsrv.delivery import dedup_part
from segsrv.delivery.dedup_part import CAPACITY_MAX, SECRET_BYTES, TAG, Damaged, Part

logger = logging.getLogger(__name__)

PARTS = 6
PARTS_UNSETTLED_MAX = 2
# Records in memory that wait for a disk which refuses them.
PENDING_MAX = 100_000
SET_ASIDE_MAX = 2
REPORT_INTERVAL_S = 60.0
CACHED_MAX = 10_000
# Of the process, not of the file.
FOR_NOW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
UINT64 = (1 << 64) - 1
UINT32 = (1 << 32) - 1


class Sent(NamedTuple):
    """Events of one request, or some of them; `ids` and `positions` have one entry an event.

    A position is any number below 2^64 that no other event of the same journal has.
    """

    key_id: str
    format: str
    received_ms: int
    journal_id: str
    ids: Sequence[str]
    positions: Sequence[int]


class DedupIndex:
    """The events that one sink was given. Plain synchronous code; one thread at a time.

    For each batch: `judge`, `sync`, then save the cursor that covers it, then `settle`. Counters
    are of this process: `duplicates`; `evicted_early`, records that left within their window since
    newer ones needed their place; `unrecorded`, events kept without a record since the disk took
    none; `damaged`, records that damage or a power cut made unreadable, and `set_aside`, files.
    """

    def __init__(
        self,
        directory: Path,
        *,
        window_s: float,
        ids_max: int,
        file_mode: int = files.FILE_MODE,
        disk_free_bytes_min: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the index in *directory*, or begin one; what can't be read there is set aside.

        A new part is not begun when it would leave less than *disk_free_bytes_min* on the disk.
        """
        self._directory = directory
        self._window_s = window_s
        self._ids_max = ids_max
        self._capacity = min(-(-ids_max // PARTS), CAPACITY_MAX)
        self._file_mode = file_mode
        self._disk_free_bytes_min = disk_free_bytes_min
        self._clock = clock
        self.duplicates = 0
        self.evicted_early = 0
        self.unrecorded = 0
        self.damaged = 0
        self.set_aside = 0

        self._is_refused = False
        self._may_begin = True
        self._last_error = ""
        self._reported_s: float | None = None
        self._unreported = 0
        self._parts: list[Part] = []
        self._probed: list[Part] = []
        self._unsettled = 0
        self._next_number = 1
        self._load()
        self._secret = self._parts[-1].secret if self._parts else os.urandom(SECRET_BYTES)
        self._hashes: dict[tuple[str, str], hashlib.blake2b] = {}
        self._shifts: dict[str, int] = {}

    @property
    def ids(self) -> int:
        """Records that the index holds."""
        return sum(part.count for part in self._parts)

    @property
    def pending(self) -> int:
        """Records that are in memory only."""
        return sum(part.pending for part in self._parts)

    def judge(self, events: Sequence[Sent]) -> bytes:
        """Return a byte for each event, in order: 1 if it is to be kept, 0 for a duplicate."""
        self._choose_parts(events)
        self._may_begin = True
        kept = bytearray()
        for key_id, output, received_ms, journal_id, ids, positions in events:
            hasher = self._hasher(key_id, output)
            shift = self._shift(journal_id)
            received_s = _seconds(received_ms)
            for event_id, position in zip(ids, positions, strict=True):
                if event_id:
                    hashed = hasher.copy()
                    hashed.update(event_id.encode())
                    origin = position + shift & UINT64
                    kept.append(self._is_kept(hashed.digest(), origin, received_s))
                else:
                    kept.append(True)
        if self._unreported:
            self._report()
        return bytes(kept)

    def sync(self) -> bool:
        """Put all records on stable storage; say whether they are there.

        Where the disk refuses, they stay in memory, up to PENDING_MAX, and the next call tries
        again. Delivery may go on: a crash then costs these records, and no event.
        """
        try:
            for part in self._parts:
                part.sync()
        except OSError as error:
            self._is_refused = True
            self._failed(error)
            return False
        self._is_refused = False
        return True

    def settle(self) -> None:
        """Forget what is over the capacity: nothing judged so far will be judged again.

        That is so once a cursor that covers it was saved.
        """
        self._unsettled = 0
        self._evict()

    def close(self) -> None:
        for part in self._parts:
            part.close()
        self._parts = []

    def _is_kept(self, identity: bytes, origin: int, received_s: int) -> bool:
        word = int.from_bytes(identity[:8], "little")
        tag = word >> 32 & TAG
        found: list[tuple[Part, int]] = []
        slot = 0
        for part in self._probed:
            table, mask = part.table, part.mask
            slot = word & mask
            while entry := table[slot]:
                if entry & TAG == tag:
                    found.append((part, entry))
                slot = slot + 1 & mask
        if found and (known := self._known(found, identity, origin, received_s)) is not None:
            return known
        # The open part was the last one probed: its lookup ended where the record belongs.
        newest = self._probed[-1] if self._probed else None
        if newest is None or newest.is_full:
            newest = self._begin_part()
            slot = word & newest.mask if newest else 0
        if newest is None or (self._is_refused and newest.pending >= PENDING_MAX):
            self.unrecorded += 1
            self._unreported += 1
        else:
            newest.add(slot, identity, origin, received_s)
        return True

    def _known(
        self, found: Sequence[tuple[Part, int]], identity: bytes, origin: int, received_s: int
    ) -> bool | None:
        """Judge by the records that were *found*; None if they are others' or too far away."""
        is_duplicate = False
        for part, entry in found:
            try:
                record = part.record(entry)
            except OSError as error:
                self._failed(error)
                record = None
            if record is None:
                self.damaged += 1
            elif record.identity == identity:
                if record.origin == origin:
                    return True
                if abs(record.received_s - received_s) <= self._window_s:
                    is_duplicate = True
        if is_duplicate:
            self.duplicates += 1
            return False
        return None

    def _choose_parts(self, events: Sequence[Sent]) -> None:
        """Choose the parts that can hold a record within the window of one of *events*."""
        times = [_seconds(sent.received_ms) for sent in events] or [0]
        first_s, last_s = min(times) - self._window_s, max(times) + self._window_s
        self._probed = [
            part
            for part in self._parts[:-1]
            if part.newest_s >= first_s and part.oldest_s <= last_s
        ] + self._parts[-1:]

    def _hasher(self, key_id: str, output: str) -> hashlib.blake2b:
        hasher = self._hashes.get((key_id, output))
        if hasher is None:
            hasher = hashlib.blake2b(key=self._secret, digest_size=16)
            for text in (key_id, output):
                data = text.encode()
                # With its length, so that no two pairs make the same bytes.
                hasher.update(len(data).to_bytes(8, "little") + data)
            if len(self._hashes) >= CACHED_MAX:
                self._hashes.clear()
            self._hashes[key_id, output] = hasher
        return hasher

    def _shift(self, journal_id: str) -> int:
        """Return what is added to positions of a journal, so that no other journal has them."""
        shift = self._shifts.get(journal_id)
        if shift is None:
            digest = hashlib.blake2b(journal_id.encode(), key=self._secret, digest_size=8).digest()
            shift = int.from_bytes(digest, "little")
            if len(self._shifts) >= CACHED_MAX:
                self._shifts.clear()
            self._shifts[journal_id] = shift
        return shift

    def _begin_part(self) -> Part | None:
        """Begin the next part; None if the disk does not take it now: asked once a batch."""
        if not self._may_begin:
            return None
        self._may_begin = False
        number, self._next_number = self._next_number, self._next_number + 1
        path = self._directory / f"{number:010d}.ids"
        try:
            files.make_dir(self._directory, self._file_mode)
            dedup_part.begin(
                path,
                number,
                self._capacity,
                self._secret,
                file_mode=self._file_mode,
                free_bytes_min=self._disk_free_bytes_min,
            )
            part = Part(path)
        except OSError as error:
            self._failed(error)
            return None
        self._may_begin = True
        self._parts.append(part)
        self._probed.append(part)
        self._unsettled += 1
        if self._unsettled > PARTS_UNSETTLED_MAX:
            self._evict()
        return part

    def _evict(self) -> None:
        """Delete the oldest part while the others hold `ids_max`."""
        while self._parts and self.ids - self._parts[0].count >= self._ids_max:
            part = self._parts.pop(0)
            if part in self._probed:
                self._probed.remove(part)
            newest_s = max(other.newest_s for other in self._parts)
            try:
                self.evicted_early += part.received_since(int(newest_s - self._window_s))
                part.delete()
            except OSError as error:
                # After a restart it is the oldest again.
                self._failed(error)

    def _load(self) -> None:
        """Read the parts; the newest one says which secret the others must have."""
        self._remove_leftovers()
        for path in reversed(self._listed("*.ids")):
            if not path.stem.isascii() or not path.stem.isdigit():
                continue
            self._next_number = max(self._next_number, int(path.stem) + 1)
            try:
                part = Part(path)
            except OSError as error:
                if error.errno in FOR_NOW:
                    self._failed(error)
                else:
                    self._set_aside(path, error)
                continue
            except Damaged as error:
                self._set_aside(path, error)
                continue
            if self._parts and part.secret != self._parts[0].secret:
                part.close()
                self._set_aside(path, Damaged("a part of another index"))
                continue
            self.damaged += part.damaged
            self._parts.insert(0, part)

    def _remove_leftovers(self) -> None:
        """Remove files that a crash left unfinished, and tables without records."""
        leftovers = self._listed("*.tmp")
        for table in self._listed("*.table"):
            if not table.with_suffix(".ids").exists():
                leftovers.append(table)
        for path in leftovers:
            with contextlib.suppress(OSError):
                path.unlink()

    def _listed(self, pattern: str) -> list[Path]:
        try:
            return sorted(self._directory.glob(pattern))
        except OSError as error:
            self._failed(error)
            return []

    def _set_aside(self, path: Path, error: Exception) -> None:
        self.set_aside += 1
        aside = path.with_name(path.name + ".damaged")
        logger.error(
            "dedup: set aside, events that it knew may be delivered again file=%s error=%s",
            aside,
            error,
        )
        with contextlib.suppress(OSError):
            path.replace(aside)
        for older in self._listed("*.damaged")[:-SET_ASIDE_MAX]:
            with contextlib.suppress(OSError):
                older.unlink()

    def _failed(self, error: OSError) -> None:
        self._last_error = str(error)
        self._report()

    def _report(self) -> None:
        """Say at most once a minute what the disk refuses, and how many events have no record."""
        now_s = self._clock()
        if self._reported_s is not None and now_s - self._reported_s < REPORT_INTERVAL_S:
            return
        self._reported_s = now_s
        logger.error(
            "dedup: disk error, repeated events may be delivered directory=%s unrecorded=%d"
            " error=%s",
            self._directory,
            self._unreported,
            self._last_error,
        )
        self._unreported = 0


def _seconds(received_ms: int) -> int:
    return min(max(received_ms // 1000, 0), UINT32)
