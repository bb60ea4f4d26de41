"""A small state file that can be saved when the disk is full, and survives a torn save.

    slot 0, slot 1, each:  magic (8)  version (4)  sequence (8)  payload bytes (4)  payload  CRC (4)

Numbers are little-endian; the CRC-32 covers all that stands before it in the slot. The file is made
once, with every byte written, and then only overwritten in place, so a save needs no free space
(unless the file system writes each change to a new place, as Btrfs and ZFS do).

A save goes to the slot that does not hold the newest payload, so a crash in the middle of it leaves
the newest one whole. Should damage take the newest slot later, the older one counts: whoever
deletes something because of a payload must wait until that payload is the *older* one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from segsrv.errors import SegsrvError
from segsrv.files import FILE_MODE, make_dir, open_file, replace_file, sync_dir

logger = logging.getLogger(__name__)

SLOT_BYTES = 64 << 10
SLOTS = 2
MAGIC = b"\x00segslot"
VERSION = 1
KEPT_FILES = 8
"""Copies of unusable files that are kept beside the file; the oldest go first."""
KEPT_BYTES_MAX = 1 << 20
_HEADER = struct.Struct("<8sIQI")
_CRC = struct.Struct("<I")
OVERHEAD_BYTES = _HEADER.size + _CRC.size


class SlotTooSmall(SegsrvError):
    """A payload is larger than a slot."""

    code = "slot_too_small"


@dataclass(slots=True, frozen=True)
class Slots:
    """The payloads that a file holds; None for one that was never saved, or is damaged."""

    newest: bytes | None = None
    older: bytes | None = None
    damaged: int = 0
    """Slots that can't be read."""


@dataclass(slots=True, frozen=True)
class _Slot:
    """One slot as read; sequence 0 is a slot that was never saved, and `fault` a damaged one's."""

    sequence: int = 0
    payload: bytes = b""
    fault: str = ""


class SlotFile:
    """The file at *path*; belongs to one thread at a time.

    `slots` says what the file holds as far as this process knows.
    """

    def __init__(
        self, path: Path, *, slot_bytes: int = SLOT_BYTES, file_mode: int = FILE_MODE
    ) -> None:
        self.path = path
        self.slots = Slots()
        self._slot_bytes = slot_bytes
        self._file_mode = file_mode
        self._fd = -1
        self._found = [_Slot()] * SLOTS
        self._unkept: bytes | None = None
        self._is_loaded = False

    @property
    def payload_bytes_max(self) -> int:
        return self._slot_bytes - OVERHEAD_BYTES

    def load(self) -> Slots:
        """Return what is kept, and get ready to save.

        Damage is never an error: it is logged and counted in `damaged`. What is returned is on
        stable storage, also when it was left by a process that was killed before it had synced. A
        file that can't be made yet, on a full disk say, is made by the first save.

        Raises:
            OSError: The disk refused to read or to sync.

        """
        self.close()
        self._found = [_Slot()] * SLOTS
        self._unkept = b""
        self._is_loaded = True
        with contextlib.suppress(FileNotFoundError):
            self._open()
        self.slots = _summary(self._found)
        if self._fd < 0 or self._unkept:
            try:
                self._mend()
            except OSError as error:
                logger.warning("slots: can't be made yet file=%s error=%s", self.path, error)
        return self.slots

    def save(self, payload: bytes) -> None:
        """Put *payload* on stable storage as the newest; the newest so far becomes the older.

        After an error the newest so far is still whole, but *payload* may be there too.

        Raises:
            SlotTooSmall: The payload is larger than `payload_bytes_max`.
            OSError: The disk refused.

        """
        if len(payload) > self.payload_bytes_max:
            raise SlotTooSmall(
                f"{self.path.name}: {len(payload)} bytes, the limit is {self.payload_bytes_max}"
            )
        if not self._is_loaded:
            self.load()
        if self._fd < 0 or os.fstat(self._fd).st_nlink == 0:
            # It could not be made before, or somebody removed it.
            self._mend()
        newest = max(range(SLOTS), key=lambda index: self._found[index].sequence)
        target = (newest + 1) % SLOTS
        saved = _Slot(self._found[newest].sequence + 1, payload)
        # Until the sync is over, nobody knows what the target holds.
        self._found[target] = _Slot()
        self.slots = _summary(self._found)
        data, offset = memoryview(_encode(saved)), target * self._slot_bytes
        while data:
            written = os.pwrite(self._fd, data, offset)
            data, offset = data[written:], offset + written
        os.fdatasync(self._fd)
        self._found[target] = saved
        self.slots = _summary(self._found)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _open(self) -> None:
        if not stat.S_ISREG(self.path.stat().st_mode):
            # Opening a pipe could hang.
            fault = "it is not a regular file"
            logger.error("slots: damaged file=%s reason=%s", self.path, fault)
            self._found = [_Slot(fault="is not a regular file")] * SLOTS
            self.path.rename(self._aside())
            return
        fd = open_file(self.path, os.O_RDWR, self._file_mode)
        try:
            data = _read(fd, max(KEPT_BYTES_MAX, SLOTS * self._slot_bytes))
            self._found = [_decode(part) for part in _parts(data, self._slot_bytes)]
            size = os.fstat(fd).st_size
            is_sized = size == SLOTS * self._slot_bytes
            self._report(size)
            if not is_sized or all(slot.fault for slot in self._found):
                self._unkept = data
            if is_sized:
                os.fdatasync(fd)
                sync_dir(self.path.parent)
                self._fd, fd = fd, -1
        finally:
            if fd >= 0:
                os.close(fd)

    def _report(self, size: int) -> None:
        faults = [
            f"slot {number} {slot.fault}" for number, slot in enumerate(self._found) if slot.fault
        ]
        if size != SLOTS * self._slot_bytes:
            faults.insert(0, f"it has {size} bytes, expected {SLOTS * self._slot_bytes}")
        if faults:
            logger.error("slots: damaged file=%s reason=%s", self.path, ", ".join(faults))

    def _mend(self) -> None:
        """Keep what an unusable file held, and see that there is one to write in place."""
        if self._unkept:
            replace_file(self._aside(), self._unkept, file_mode=self._file_mode)
            self._unkept = b""
        if self._fd >= 0 and os.fstat(self._fd).st_nlink:
            return
        self.close()
        make_dir(self.path.parent, self._file_mode)
        # Written, not reserved: what is only reserved may need room when it is written.
        data = b"".join(
            _encode(_Slot() if slot.fault else slot).ljust(self._slot_bytes, b"\0")
            for slot in self._found
        )
        replace_file(self.path, data, file_mode=self._file_mode)
        self._fd = open_file(self.path, os.O_RDWR, self._file_mode)

    def _aside(self) -> Path:
        """Return a new name for a damaged file, after deleting the oldest of too many."""
        prefix = self.path.name + ".damaged-"
        suffixes = [
            path.name.removeprefix(prefix)
            for path in self.path.parent.iterdir()
            if path.name.startswith(prefix)
        ]
        numbers = sorted(int(suffix) for suffix in suffixes if suffix.isdecimal())
        for number in numbers[: max(len(numbers) - KEPT_FILES + 1, 0)]:
            self.path.with_name(f"{prefix}{number}").unlink(missing_ok=True)
        return self.path.with_name(f"{prefix}{numbers[-1] + 1 if numbers else 1}")


def read(path: Path, *, slot_bytes: int = SLOT_BYTES) -> Slots:
    """Return what the file at *path* holds, changing nothing; for tools, beside a running server.

    Raises:
        OSError: It is there and can't be read.

    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Slots(damaged=SLOTS)
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return Slots()
    try:
        data = _read(fd, SLOTS * slot_bytes)
    finally:
        os.close(fd)
    return _summary([_decode(part) for part in _parts(data, slot_bytes)])


def _encode(slot: _Slot) -> bytes:
    data = _HEADER.pack(MAGIC, VERSION, slot.sequence, len(slot.payload)) + slot.payload
    return data + _CRC.pack(zlib.crc32(data))


def _decode(data: bytes) -> _Slot:
    if len(data) < OVERHEAD_BYTES:
        return _Slot(fault="is cut off")
    magic, version, sequence, size = _HEADER.unpack_from(data)
    if magic != MAGIC:
        return _Slot(fault="has no magic number")
    if version != VERSION:
        return _Slot(fault=f"has version {version}, expected {VERSION}")
    end = _HEADER.size + size
    if end + _CRC.size > len(data):
        return _Slot(fault=f"is cut off before its {size} bytes")
    if _CRC.unpack_from(data, end)[0] != zlib.crc32(memoryview(data)[:end]):
        return _Slot(fault="has a wrong checksum")
    return _Slot(sequence, data[_HEADER.size : end])


def _parts(data: bytes, slot_bytes: int) -> list[bytes]:
    return [data[number * slot_bytes : (number + 1) * slot_bytes] for number in range(SLOTS)]


def _summary(slots: list[_Slot]) -> Slots:
    saved = sorted((slot for slot in slots if slot.sequence), key=lambda slot: slot.sequence)
    payloads: list[bytes | None] = [slot.payload for slot in saved]
    older, newest = ([None] * SLOTS + payloads)[-SLOTS:]
    return Slots(newest, older, damaged=sum(bool(slot.fault) for slot in slots))


def _read(fd: int, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    while bytes_max > 0 and (part := os.read(fd, bytes_max)):
        parts.append(part)
        bytes_max -= len(part)
    return b"".join(parts)
