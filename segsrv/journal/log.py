"""The segment files of one journal, as plain synchronous code with one owner.

`segments.py` says how files are named and what they begin with, `frame.py` what is in them, and
`frame_writer.py` how it gets there. `append`, `probe`, `check_space` and `release` belong to one
thread, the owner's. `read` and `check_lock` may run in any thread: they work on a view of the
segments that is replaced and never changed, and on the lock.

Rules:
- A frame is acknowledged only after `append` returned. What a failed write left is cut off again,
  and the next write begins a new file right behind the last acknowledged byte: what could not be
  cut off lies beyond that file's first position, and so stays refused, as soon as a later write
  succeeds. A file that holds nothing acknowledged is deleted, or else given up with its name.
- The last segment is checked when the journal is opened, see `recovery.py`.
- A start goes on behind the last whole frame, at a position not below any cursor, so that nothing
  new can be taken for something delivered.
- Files are made, read and deleted by path only while the lock that stands there is this log's own.
  When the directory was removed, another server may have begun a journal of its own there.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from pathlib import Path

from segsrv.errors import JournalFault, JournalFull, Unavailable
from segsrv.files import FILE_MODE, is_full, make_dir, open_file, write_all
from segsrv.journal import frame, lock
from segsrv.journal.aside import Aside
from segsrv.journal.frame_writer import FrameWriter
from segsrv.journal.reader import Chunk, Pieces
from segsrv.journal.recovery import recover
from segsrv.journal.segments import (
    HEADER_BYTES,
    Header,
    Segment,
    View,
    pack_header,
    segment_path,
)
from segsrv.journal.spare_files import SpareFiles

logger = logging.getLogger(__name__)

LOCK = "lock"
ID_BYTES = 16
PROBE_EVENTS = 0
NAMES_TRIED_MAX = 16
CHECK_INTERVAL_S = 0.05
FOUND_INTERVAL_S = 0.005
"""A call into the kernel hands the interpreter over, which under load costs more than the call."""


class SegmentLog:
    """An open journal directory, locked against other processes.

    `id` is the journal's, random and in each of its segments; `end` the acknowledged end.

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
        self.id = ""
        self.end = position_min
        self._file_mode = file_mode
        self._view = View((), None)
        self._stale: Segment | None = None
        self._fd = self._dir_fd = -1
        self._space_checked_s = self._lock_checked_s = self._found_checked_s = -CHECK_INTERVAL_S
        self.writer = FrameWriter(is_synced=is_synced)
        make_dir(directory, file_mode)
        self._lock_fd = lock.take(directory / LOCK, file_mode)
        self._spare = SpareFiles()
        self._aside = Aside(directory, file_mode=file_mode)
        self._pieces = Pieces(self._aside, self._spare)
        try:
            self._dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            self._recover()
        except BaseException:
            self.close()
            raise

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, oldest first."""
        sealed, newest = self._view
        return sealed if newest is None else (*sealed, newest)

    @property
    def first(self) -> int:
        """The position of the oldest byte that is still held."""
        sealed, newest = self._view
        oldest = sealed[0] if sealed else newest
        return self.end if oldest is None else oldest.base

    @property
    def damaged_frames(self) -> int:
        """Damaged pieces that were set aside, and stretches that were removed, since the start."""
        return self._aside.damaged_frames

    @property
    def torn_tails(self) -> int:
        """Unfinished commits that were cut off at the start."""
        return self._aside.torn_tails

    def append(self, payload: bytes, events: int, facts: bytes = b"") -> None:
        """Write one frame and, unless told otherwise, wait until it is on stable storage.

        *facts* are those of all its events, as `facts.join` returns them, or nothing.

        Raises:
            JournalFull: The disk is full or has less free space than the limit.
            JournalFault: The disk refused the write or the sync; nothing of it remains.

        """
        try:
            if self._fd < 0 or self._newest.end - self._newest.base >= self.segment_bytes_max:
                self._roll()
            now_s = time.monotonic()
            if now_s >= self._space_checked_s + CHECK_INTERVAL_S:
                self._check_free_space(len(payload) + len(facts))
            if now_s >= self._lock_checked_s + CHECK_INTERVAL_S:
                # Before anything is written: where another log took over, the place is that one's.
                self.check_lock()
                self._lock_checked_s = now_s
            offset = self._offset
            header, trailer = frame.encode(payload, events, facts)
            parts = [header, facts, payload, trailer]
            self.writer.write(self._fd, parts, offset, size_max=self.segment_bytes_max)
            self._check_found()
        except OSError as error:
            self._abandon()
            raise _refusal(error) from error
        except MemoryError:
            self._abandon()
            raise
        newest = self._newest
        end = newest.base + offset + frame.frame_bytes(payload, facts)
        self._view = self._view._replace(newest=newest._replace(end=end))
        self.end = end

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
        """Return frames from *position* on, as `Reader.read` does, up to the acknowledged end.

        Raises:
            OSError: The disk refused to read, or the directory is another's; the text says where.

        """
        self.check_lock()
        acknowledged = self.end if end is None else min(self.end, end)
        view, first = self._view, self.first
        return self._pieces.read(view, position, bytes_max, acknowledged, first=first)

    def release(
        self, position: int, *, retention_s: float = 0.0, files_max: int | None = None
    ) -> bool:
        """Delete segments that lie wholly below *position* and are older than *retention_s*.

        At most *files_max* of them; returns whether it stopped for that. What can't be deleted now
        stays, and the next call tries again.
        """
        sealed = self._view.sealed
        deleted = 0
        is_more = False
        try:
            for segment in sealed:
                if segment.end > position:
                    break
                if deleted == files_max:
                    is_more = True
                    break
                if retention_s and _age_s(segment.path) < retention_s:
                    break
                self.check_lock()
                segment.path.unlink(missing_ok=True)
                deleted += 1
        except OSError as error:
            logger.warning("journal: can't delete what is delivered: %s", error)
        if deleted:
            self._view = self._view._replace(sealed=sealed[deleted:])
        return is_more

    def close(self) -> None:
        """Close the files and give up the lock."""
        if self._fd >= 0:
            self.writer.trim(self._fd, self._offset)
        for fd in (self._fd, self._dir_fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._dir_fd = self._lock_fd = -1
        self._spare.release()

    @property
    def _newest(self) -> Segment:
        newest = self._view.newest
        assert newest is not None, "a journal that is open has a newest segment"
        return newest

    @property
    def _offset(self) -> int:
        """Where the next frame goes in the newest file."""
        newest = self._newest
        return max(newest.end, newest.start) - newest.base

    def _recover(self) -> None:
        """Take over what the folder holds, and open the segment that is written next."""
        segments, journal_id, is_begun = recover(self.directory, self._aside)
        self.id = journal_id or secrets.token_hex(ID_BYTES)
        if is_begun and segments[-1].end >= self.end:
            *sealed, newest = segments
            self._fd = open_file(newest.path, os.O_WRONLY, self._file_mode)
            self._view = View(tuple(sealed), newest)
            self.end = newest.end
            # Whoever began it may have been killed before its name was safe.
            os.fsync(self._dir_fd)
        else:
            self._view = View(tuple(segments), None)
            self.end = max([self.end, *(segment.end for segment in segments[-1:])])
            try:
                self._roll()
            except OSError as error:
                if not is_full(error):
                    raise
                # What is here can be delivered; the next append tries again, and says so.
                self._view = self._view._replace(newest=self._empty(self.end))
        if self._fd >= 0:
            # The id has to last from the first cursor on, also where older files have none.
            os.fdatasync(self._fd)

    def _roll(self) -> None:
        """Seal the newest segment and begin the next."""
        self.check_lock()
        sealed, newest = self._view
        added = self._stale
        if newest is not None and newest.end > newest.base:
            added = newest
        if added is not None:
            sealed = (*sealed, added)
        base, fd = self._make(sealed[-1].end if sealed else 0)
        if self._fd >= 0:
            self.writer.trim(self._fd, self._offset)
            self._spare.close(self._fd)
        self._fd = fd
        self._stale = None
        self._view = View(sealed, self._empty(base))
        self.end = base

    def _empty(self, base: int) -> Segment:
        return Segment(base, base, str(segment_path(self.directory, base)))

    def _make(self, end_before: int) -> tuple[int, int]:
        """Make the next segment's file; return its base, the end or just behind, and the file."""
        base, fd = self._make_file()
        created_ms = time.time_ns() // 1_000_000
        try:
            write_all(fd, [pack_header(Header(self.id, base, end_before, created_ms))])
            os.fsync(self._dir_fd)
        except BaseException:
            self._spare.close(fd)
            with contextlib.suppress(OSError):
                self.check_lock()
                segment_path(self.directory, base).unlink()
            raise
        return base, fd

    def _make_file(self) -> tuple[int, int]:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        base = self.end if self._stale is None else self._stale.end
        for _try in range(NAMES_TRIED_MAX):
            path = segment_path(self.directory, base)
            try:
                return base, self._spare.open(lambda: open_file(path, flags, self._file_mode))  # noqa: B023
            except FileExistsError:
                # Somebody else's, or what a failed write left and could not be deleted.
                base += HEADER_BYTES
        raise FileExistsError(errno.EEXIST, f"{path.name} is already there")

    def _abandon(self) -> None:
        """Cut off what a failed write left, and let the next one begin a new file.

        After a failed sync the kernel may have dropped the pages and forgotten the error, so that
        file can't be trusted to take more.
        """
        if self._fd < 0:
            return
        newest = self._newest
        try:
            if newest.end > newest.base:
                os.ftruncate(self._fd, newest.end - newest.base)
            else:
                # Another file of the name is a fresh one.
                self.check_lock()
                newest.path.unlink(missing_ok=True)
        except OSError as error:
            logger.error("journal: can't cut off a failed write: %s", error)  # noqa: TRY400
            if newest.end == newest.base:
                # It stays, as one without frames: the next begins right behind its header.
                self._stale = newest._replace(end=newest.start)
        self._spare.close(self._fd)
        self._fd = -1
        self.writer.begin()

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
        now_s = time.monotonic()
        if now_s < self._found_checked_s + FOUND_INTERVAL_S:
            return
        if os.fstat(self._fd).st_nlink == 0:
            # Somebody removed the data directory below the server, and with it all that was not
            # delivered; the write went nowhere.
            raise FileNotFoundError(errno.ENOENT, "its file was removed")
        self._found_checked_s = now_s


def _refusal(error: OSError) -> Unavailable:
    kind = JournalFull if is_full(error) else JournalFault
    return kind(f"the journal can't be written: {error.strerror}")


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
