"""One part of a deduplication index: a file of records in the order of their coming, and a table.

    file  = header | record | record | … | zeros up to the capacity
    header = magic, version, capacity, number, secret, CRC                    64 bytes
    record = identity (16) | origin (8) | received (s, 4) | CRC (4)           32 bytes

Records are only ever appended, in pieces that begin where the last synced one ended, so a power
cut costs records that were not synced, and none other. The file gets its whole size when it is
begun: a disk that fills up later stops no record. The table finds a record by its identity; it is
kept in memory, and once the part is full also in a file, which is only a cache of the records: it
is written without a sync, and made anew where it is missing or damaged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import zlib
from array import array
from pathlib import Path
from typing import NamedTuple

from segsrv import files

HEADER = struct.Struct("<8sHIQ32s6xI")
MAGIC = b"SEGDEDUP"
VERSION = 1
RECORD = struct.Struct("<16sQI")
RECORD_BYTES = RECORD.size + 4
# In the machine's own byte order, as the table is, so that another machine makes its own.
TABLE_HEADER = struct.Struct("=QQIIII")
TABLE_MAGIC = int.from_bytes(b"SEGTABLE", "big")
SECRET_BYTES = 32

# A table's entry: bits of the identity, to look at few records in vain, and the record's number
# from 1. No entry is 0, which stands for an empty slot.
TAG = 0xFF00_0000
INDEX = 0x00FF_FFFF
CAPACITY_MAX = INDEX


class Record(NamedTuple):
    """Where, as a number, and when the event that was first seen came from."""

    identity: bytes
    origin: int
    received_s: int


class Damaged(ValueError):
    """A file is no part, or is not one of this index."""


def begin(
    path: Path, number: int, capacity: int, secret: bytes, *, file_mode: int, free_bytes_min: int
) -> None:
    """Make the file of an empty part, with room for all its records.

    Raises:
        OSError: It can't be made, or is there already.

    """
    if os.path.lexists(path):
        # The folder could not be listed when the index was opened.
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    size = HEADER.size + capacity * RECORD_BYTES
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if free < size + free_bytes_min:
        reason = f"{free} bytes free, {size} are needed and {free_bytes_min} must stay free"
        raise OSError(errno.ENOSPC, reason, str(path))
    fields = HEADER.pack(MAGIC, VERSION, capacity, number, secret, 0)[:-4]
    files.replace_file(path, fields + struct.pack("<I", zlib.crc32(fields)), file_mode=file_mode)
    try:
        fd = os.open(path, os.O_WRONLY)
        try:
            _reserve(fd, size)
        finally:
            os.close(fd)
    except BaseException:
        path.unlink()
        raise


class Part:
    """A part on disk, open for reading, and for writing until it is full.

    `count` records are in it, those after the last `sync` in memory only. They were received
    between `oldest_s` and `newest_s`. A lookup begins in the slot `identity & mask` of `table`.
    """

    def __init__(self, path: Path) -> None:
        """Read the part of *path*.

        Raises:
            Damaged: It is none.
            OSError: It can't be read.

        """
        self.path = path
        self.count = 0
        self.oldest_s = 0
        self.newest_s = 0
        self.damaged = 0
        # A pipe would wait for its writer.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._header = os.pread(self._fd, HEADER.size, 0) if _is_file(self._fd) else b""
            self.capacity, self.number, self.secret = _read_header(self._header)
            slots = 1 << max(1, 2 * self.capacity - 1).bit_length()
            self.mask = slots - 1
            self._table_path = path.with_suffix(".table")
            self._pending: list[bytes] = []
            self._is_table_saved = self._load_table()
            if not self._is_table_saved:
                self.table = array("I", bytes(4 * slots))
                self._load_records()
        except BaseException:
            os.close(self._fd)
            raise
        self._synced = self.count

    @property
    def is_full(self) -> bool:
        return self.count == self.capacity

    @property
    def pending(self) -> int:
        """Records that are in memory only."""
        return self.count - self._synced

    def add(self, slot: int, identity: bytes, origin: int, received_s: int) -> None:
        """Append a record; *slot* is the empty one at which the lookup of *identity* ended."""
        fields = RECORD.pack(identity, origin, received_s)
        self._pending.append(fields + zlib.crc32(fields).to_bytes(4, "little"))
        if not self.count or received_s < self.oldest_s:
            self.oldest_s = received_s
        if not self.count or received_s > self.newest_s:
            self.newest_s = received_s
        self.count += 1
        self.table[slot] = identity[7] << 24 | self.count

    def record(self, entry: int) -> Record | None:
        """Return the record of a table's *entry*; None if it is damaged.

        Raises:
            OSError: It can't be read.

        """
        index = (entry & INDEX) - 1
        if index >= self._synced:
            data = self._pending[index - self._synced]
        else:
            data = os.pread(self._fd, RECORD_BYTES, HEADER.size + index * RECORD_BYTES)
        fields = data[: RECORD.size]
        if len(data) < RECORD_BYTES or zlib.crc32(fields) != int.from_bytes(data[-4:], "little"):
            return None
        return Record(*RECORD.unpack(fields))

    def sync(self) -> None:
        """Put all records on stable storage.

        Raises:
            OSError: They may not be there; they are kept, and the next call writes them again.

        """
        if self._pending:
            rest = memoryview(b"".join(self._pending))
            offset = HEADER.size + self._synced * RECORD_BYTES
            while rest:
                written = os.pwrite(self._fd, rest, offset)
                rest, offset = rest[written:], offset + written
            os.fdatasync(self._fd)
            self._synced = self.count
            self._pending = []
        if self.is_full and not self._is_table_saved:
            self._is_table_saved = True
            self._save_table()

    def received_since(self, time_s: int) -> int:
        """Count the records that were received at *time_s* or later."""
        if self.newest_s < time_s:
            return 0
        if self.oldest_s >= time_s:
            return self.count
        data = os.pread(self._fd, self._synced * RECORD_BYTES, HEADER.size)
        received = struct.iter_unpack(f"<{RECORD.size - 4}xI4x", data)
        return sum(received_s >= time_s for (received_s,) in received)

    def close(self) -> None:
        os.close(self._fd)

    def delete(self) -> None:
        """Close the part and remove its files.

        Raises:
            OSError: They are still there.

        """
        self.close()
        self._table_path.unlink(missing_ok=True)
        self.path.unlink()

    def _load_records(self) -> None:
        """Read the records, and make the table of those that are whole."""
        data = os.pread(self._fd, self.capacity * RECORD_BYTES, HEADER.size).rstrip(b"\0")
        view = memoryview(data + bytes(-len(data) % RECORD_BYTES))
        table, mask, crc32 = self.table, self.mask, zlib.crc32
        damaged: list[int] = []
        times: list[int] = []
        start = number = 0
        for word, received_s, crc in struct.iter_unpack("<Q16xII", view):
            number += 1
            if crc32(view[start : start + RECORD.size]) == crc:
                slot = word & mask
                while table[slot]:
                    slot = slot + 1 & mask
                table[slot] = word >> 56 << 24 | number
                times.append(received_s)
            else:
                damaged.append(number)
            start += RECORD_BYTES
        # Those after the last whole one were being written when the power went; they are written
        # over.
        while damaged and damaged[-1] == number:
            damaged.pop()
            number -= 1
        self.damaged = len(damaged)
        self.count = number
        self.oldest_s, self.newest_s = min(times, default=0), max(times, default=0)

    def _load_table(self) -> bool:
        """Read the table from its file; say whether that is one of these records."""
        try:
            data = self._table_path.read_bytes()
        except OSError:
            return False
        if len(data) != TABLE_HEADER.size + 4 * (self.mask + 1):
            return False
        magic, number, count, oldest_s, newest_s, crc = TABLE_HEADER.unpack_from(data)
        view = memoryview(data)[TABLE_HEADER.size :]
        fields = data[: TABLE_HEADER.size - 4]
        if (magic, number, count) != (TABLE_MAGIC, self.number, self.capacity):
            return False
        if zlib.crc32(view, zlib.crc32(self._header + fields)) != crc:
            return False
        self.table = array("I")
        self.table.frombytes(view)
        self.count, self.oldest_s, self.newest_s = count, oldest_s, newest_s
        return True

    def _save_table(self) -> None:
        fields = TABLE_HEADER.pack(
            TABLE_MAGIC, self.number, self.count, self.oldest_s, self.newest_s, 0
        )[:-4]
        crc = zlib.crc32(self.table, zlib.crc32(self._header + fields))
        data = fields + struct.pack("=I", crc) + self.table.tobytes()
        mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        # Without it the next start takes longer.
        with contextlib.suppress(OSError):
            files.replace_file(self._table_path, data, file_mode=mode, is_synced=False)


def _reserve(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        # Some file systems can't; there a record may find the disk full.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def _is_file(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _read_header(data: bytes) -> tuple[int, int, bytes]:
    """Return capacity, number and secret."""
    if len(data) < HEADER.size:
        raise Damaged("no header")
    magic, version, capacity, number, secret, crc = HEADER.unpack(data)
    if magic != MAGIC or zlib.crc32(data[:-4]) != crc:
        raise Damaged("a damaged header, or another program's file")
    if version != VERSION or not 1 <= capacity <= CAPACITY_MAX:
        raise Damaged(f"version {version} with capacity {capacity}; this release reads {VERSION}")
    return capacity, number, secret
