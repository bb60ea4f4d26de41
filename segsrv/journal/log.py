"""The segment files of one journal, as plain synchronous code with one owner.

A position is a byte offset into the whole journal since it began; a segment file is named after the
position of its first byte, so that `position - base` is the offset in the file. `append`, `probe`,
`check_space` and `release` belong to one thread, the owner's. `read` and `check_lock` may run in
any thread: they work on `segments`, a tuple that is replaced and never changed, and on the lock.

Rules:
- A frame is acknowledged only after `append` returned. What a failed write left is cut off again.
- The last segment is checked when the journal is opened. Bytes after its last whole frame were
  never acknowledged and are cut off; a whole frame with a wrong CRC is kept in a file beside it.
- A start begins a new segment, at a position not below any cursor, so that nothing new can be taken
  for something delivered.
- Files are made, read and deleted by path only while the lock that stands there is this log's own.
  When the directory was removed, another server may have begun a journal of its own there.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from segsrv.errors import JournalFault, JournalFull, Unavailable
from segsrv.files import FILE_MODE, is_full, make_dir, open_file, sync_dir, write_all
from segsrv.journal import frame, lock

logger = logging.getLogger(__name__)

SUFFIX = ".journal"
LOCK = "lock"
PROBE_EVENTS = 0
CHECK_INTERVAL_S = 0.05
"""A call into the kernel hands the interpreter over, which under load costs more than the call."""


@dataclass(slots=True, frozen=True)
class Segment:
    """A segment file; `end` is the position after its last acknowledged byte."""

    base: int
    end: int
    path: Path


@dataclass(slots=True, frozen=True)
class Chunk:
    """Consecutive frames read back: positions, event count and their NDJSON lines."""

    start: int
    end: int
    events: int
    lines: bytes


class SegmentLog:
    """An open journal directory, locked against other processes.

    Raises:
        DataDirInUse: Another process has it open.

    """

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes_max: int,
        disk_free_bytes_min: int,
        is_synced: bool,
        position_min: int = 0,
        file_mode: int = FILE_MODE,
    ) -> None:
        self.directory = directory
        self.segment_bytes_max = segment_bytes_max
        self.disk_free_bytes_min = disk_free_bytes_min
        self.is_synced = is_synced
        self.damaged_frames = 0
        self._file_mode = file_mode
        make_dir(directory, file_mode)
        self._lock_fd = lock.take(directory / LOCK, file_mode)
        self._fd = -1
        self._space_checked_s = self._lock_checked_s = -CHECK_INTERVAL_S
        self._missing: set[Path] = set()
        try:
            self.segments = self._recover()
            self.end = max(position_min, self.segments[-1].end if self.segments else 0)
            self._roll()
        except BaseException:
            self.close()
            raise

    @property
    def first(self) -> int:
        """The position of the oldest byte that is still held."""
        return self.segments[0].base

    def append(self, payload: bytes, events: int) -> None:
        """Write one frame and, unless told otherwise, wait until it is on stable storage.

        Raises:
            JournalFull: The disk is full or has less free space than the limit.
            JournalFault: The disk refused the write or the sync; nothing of it remains.

        """
        segment = self.segments[-1]
        try:
            if self._fd < 0 or segment.end - segment.base >= self.segment_bytes_max:
                self._roll()
                segment = self.segments[-1]
            if time.monotonic() >= self._space_checked_s + CHECK_INTERVAL_S:
                self._check_free_space(len(payload))
            write_all(self._fd, [frame.encode(payload, events), payload])
            if self.is_synced:
                os.fdatasync(self._fd)
            self._check_found()
        except OSError as error:
            self._abandon(segment)
            raise _refusal(error) from error
        except MemoryError:
            self._abandon(segment)
            raise
        self.end = segment.end + frame.HEADER_BYTES + len(payload)
        self.segments = (*self.segments[:-1], Segment(segment.base, self.end, segment.path))

    def check_space(self, size: int = 0) -> None:
        """Learn whether the disk has room for *size* bytes, writing nothing.

        Raises:
            JournalFull: It has less free space than the limit.
            JournalFault: It can't be asked.

        """
        try:
            self._check_free_space(size)
        except OSError as error:
            raise JournalFault(f"the journal's disk can't be read: {error.strerror}") from error

    def check_lock(self) -> None:
        """Make sure that the directory is still this log's, before something is done by its path.

        Raises:
            OSError: It was removed, or another lock stands there.

        """
        lock.check(self._lock_fd, self.directory / LOCK)

    def probe(self) -> None:
        """Write an empty frame, to learn whether the disk works again; raises as `append`."""
        self.append(b"", PROBE_EVENTS)

    def read(self, position: int, *, bytes_max: int, end: int | None = None) -> Chunk:
        """Return frames from *position* on: at least one if there is one, else about *bytes_max*.

        With *end*, return exactly the frames up to there. Damaged frames are set aside and skipped,
        and so is the rest of a file that somebody removed.

        Raises:
            OSError: The disk refused to read, or the directory is another's; the text says where.

        """
        self.check_lock()
        segments = self.segments
        index = max(bisect_right([segment.base for segment in segments], position) - 1, 0)
        segment = segments[index]
        position = max(position, segment.base)
        while position >= segment.end and index + 1 < len(segments):
            index += 1
            segment = segments[index]
            position = segment.base
        limit = segment.end if end is None else min(segment.end, end)
        if position >= limit:
            return Chunk(position, position, 0, b"")
        try:
            size = limit - position if end else bytes_max
            buffer = self._read_frames(segment, position, limit, size)
        except FileNotFoundError:
            self._miss(segment, limit - position)
            return Chunk(position, limit, 0, b"")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(segment.path)) from error
        return self._collect(segment, position, buffer, is_last=position + len(buffer) == limit)

    def release(self, position: int, *, retention_s: float = 0.0) -> None:
        """Delete segments that lie wholly below *position* and are older than *retention_s*.

        What can't be deleted now stays, and the next call tries again.
        """
        kept = list(self.segments)
        try:
            while len(kept) > 1 and kept[0].end <= position:
                if retention_s and _age_s(kept[0].path) < retention_s:
                    break
                self.check_lock()
                kept[0].path.unlink(missing_ok=True)
                del kept[0]
        except OSError as error:
            logger.warning("journal: can't delete what is delivered: %s", error)
        self.segments = tuple(kept)

    def close(self) -> None:
        """Close the files and give up the lock."""
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def _recover(self) -> tuple[Segment, ...]:
        found = sorted(self.directory.glob("*" + SUFFIX))
        segments = [
            Segment(int(path.stem), int(path.stem) + path.stat().st_size, path) for path in found
        ]
        for index, (segment, after) in enumerate(pairwise(segments)):
            # What a failed write left beyond the next segment's first byte was never acknowledged.
            segments[index] = replace(segment, end=min(segment.end, after.base))
        if segments:
            segments[-1] = self._check_tail(segments[-1])
        return tuple(segments)

    def _check_tail(self, segment: Segment) -> Segment:
        buffer = segment.path.read_bytes()
        whole = good = 0
        for part in frame.scan(buffer):
            is_damaged = isinstance(part, frame.Gap) or part.is_damaged
            whole = part.end
            if is_damaged:
                self._set_aside(segment, part.offset, buffer[part.offset : part.end])
            else:
                good = part.end
        if whole < len(buffer):
            logger.warning(
                "journal: cut off an unfinished commit file=%s bytes=%d",
                segment.path.name,
                len(buffer) - whole,
            )
        if good < len(buffer):
            with segment.path.open("r+b") as file:
                file.truncate(good)
                os.fsync(file.fileno())
        return Segment(segment.base, segment.base + good, segment.path)

    def _roll(self) -> None:
        """Seal the newest segment and begin the next."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.check_lock()
        segments = self.segments
        path = self.directory / f"{self.end:020d}{SUFFIX}"
        fd = open_file(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, self._file_mode)
        try:
            if os.fstat(fd).st_size:
                # A write that failed may be left in our own newest file, which is begun again. No
                # other file of this name can hold a byte, so one that does is not ours to empty.
                if not segments or segments[-1].path != path:
                    raise FileExistsError(errno.EEXIST, f"{path.name} is already there")
                os.ftruncate(fd, 0)
            sync_dir(self.directory)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        if segments and segments[-1].base == segments[-1].end:
            if segments[-1].path != path:
                segments[-1].path.unlink(missing_ok=True)
            segments = segments[:-1]
        self.segments = (*segments, Segment(self.end, self.end, path))

    def _abandon(self, segment: Segment) -> None:
        """Cut off what a failed write left, and let the next one begin a new file.

        After a failed sync the kernel may have dropped the pages and forgotten the error, so that
        file can't be trusted to take more.
        """
        if self._fd < 0:
            return
        try:
            os.ftruncate(self._fd, segment.end - segment.base)
        except OSError as error:
            logger.error("journal: can't cut off a failed write: %s", error)  # noqa: TRY400
        os.close(self._fd)
        self._fd = -1

    def _check_free_space(self, size: int) -> None:
        if not self.disk_free_bytes_min:
            return
        # Of the lock's disk: there may be no other file open after a write that failed.
        stat = os.fstatvfs(self._lock_fd)
        free = stat.f_bavail * stat.f_frsize
        if free - size < self.disk_free_bytes_min:
            raise JournalFull(
                f"the disk has {free} bytes free, the limit is {self.disk_free_bytes_min}"
            )
        self._space_checked_s = time.monotonic()

    def _check_found(self) -> None:
        """Make sure that a restart will find what was just written."""
        if os.fstat(self._fd).st_nlink == 0:
            # Somebody removed the data directory below the server; the write went nowhere.
            raise FileNotFoundError(errno.ENOENT, "its file was removed")
        now_s = time.monotonic()
        if now_s >= self._lock_checked_s + CHECK_INTERVAL_S:
            self.check_lock()
            self._lock_checked_s = now_s

    def _read_frames(self, segment: Segment, position: int, limit: int, size: int) -> bytes:
        fd = os.open(segment.path, os.O_RDONLY)
        try:
            buffer = _pread(fd, min(size, limit - position), position - segment.base)
            header = frame.payload_bytes(buffer, 0)
            needed = frame.HEADER_BYTES + header[0] if header else 0
            if needed > len(buffer):
                buffer = _pread(fd, min(needed, limit - position), position - segment.base)
            elif header is None:
                # Damage stands here; the whole rest is needed to find where frames go on.
                buffer = _pread(fd, limit - position, position - segment.base)
        finally:
            os.close(fd)
        return buffer

    def _collect(self, segment: Segment, position: int, buffer: bytes, *, is_last: bool) -> Chunk:
        view = memoryview(buffer)
        parts: list[memoryview] = []
        events = end = 0
        for part in frame.scan(buffer):
            if isinstance(part, frame.Gap) or part.is_damaged:
                self._set_aside(
                    segment, position - segment.base + part.offset, view[part.offset : part.end]
                )
            else:
                parts.append(view[part.payload_start : part.end])
                events += part.events
            end = part.end
        if is_last and end < len(buffer):
            # Up to here everything was acknowledged, so a rest that is no frame is damage too.
            self._set_aside(segment, position - segment.base + end, view[end:])
            end = len(buffer)
        return Chunk(position, position + end, events, b"".join(parts))

    def _miss(self, segment: Segment, size: int) -> None:
        if segment.path not in self._missing:
            self._missing.add(segment.path)
            self.damaged_frames += 1
            logger.error("journal: a file was removed file=%s bytes=%d", segment.path.name, size)

    def _set_aside(self, segment: Segment, offset: int, data: bytes | memoryview) -> None:
        path = segment.path.with_name(f"{segment.path.name}.damaged-{offset}")
        if path.exists():
            return
        self.damaged_frames += 1
        logger.error("journal: damaged bytes set aside file=%s bytes=%d", path.name, len(data))
        try:
            fd = open_file(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, self._file_mode)
            try:
                write_all(fd, [data])
            finally:
                os.close(fd)
        except OSError as error:
            logger.error("journal: can't keep damaged bytes: %s", error)  # noqa: TRY400


def _refusal(error: OSError) -> Unavailable:
    kind = JournalFull if is_full(error) else JournalFault
    return kind(f"the journal can't be written: {error.strerror}")


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _pread(fd: int, size: int, offset: int) -> bytes:
    """Read *size* bytes; those that the file has lost read as zeros, which no frame is."""
    parts = []
    while size > 0 and (part := os.pread(fd, size, offset)):
        parts.append(part)
        size -= len(part)
        offset += len(part)
    if size > 0:
        parts.append(bytes(size))
    return parts[0] if len(parts) == 1 else b"".join(parts)
