"""Reads a journal's segments, also those of another process that goes on writing them.

A reader changes nothing in segments. What is acknowledged is for the caller to say: behind that may
lie what a failed commit left.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from segsrv.files import FILE_MODE
from segsrv.journal import facts, frame
from segsrv.journal.aside import Aside
from segsrv.journal.facts import Run
from segsrv.journal.segments import (
    HEADER_BYTES,
    OPEN_FLAGS,
    POSITION_MAX,
    VERSION,
    Segment,
    View,
    find,
    unpack_header,
)
from segsrv.journal.spare_files import SpareFiles

SETTLED_NS = 100_000_000
"""A folder's time is that of a clock's tick; one that is younger may be changed without a trace."""
GROWTH = 4


class Stored:
    """The events of one commit; `payload` is their NDJSON in one piece, *position* the frame's."""

    __slots__ = ("_facts", "_runs", "events", "payload", "position")

    def __init__(
        self, position: int, events: int, payload: memoryview, facts_json: memoryview
    ) -> None:
        self.position = position
        self.events = events
        self.payload = payload
        self._facts = facts_json
        self._runs: list[Run] | None = None

    @property
    def size(self) -> int:
        """How many bytes of the journal the frame takes."""
        return frame.OVERHEAD_BYTES + len(self._facts) + len(self.payload)

    @property
    def runs(self) -> list[Run]:
        """What is known of the events, decoded when it is asked for.

        Facts that don't fit the lines count as none: filters then treat the events as unknown.
        """
        if self._runs is None:
            self._runs = self._decoded()
        return self._runs

    def _decoded(self) -> list[Run]:
        if self._facts:
            try:
                runs = facts.decode(self._facts)
                if facts.fit(runs, self.events, len(self.payload)):
                    return runs
            except (ValueError, TypeError):
                pass
        return facts.of_lines(bytes(self.payload))


class Chunk(NamedTuple):
    """What was read from position *start* to *end*; a frame without events leaves no trace."""

    start: int
    end: int
    frames: tuple[Stored, ...]

    @property
    def events(self) -> int:
        return sum(stored.events for stored in self.frames)

    @property
    def lines(self) -> bytes:
        """The NDJSON of all frames: a copy."""
        return b"".join([stored.payload for stored in self.frames])

    @property
    def runs(self) -> Iterator[Run]:
        """The runs of all frames, in order."""
        return (run for stored in self.frames for run in stored.runs)


class Reader:
    """Reads chunks of the journal in *directory*, in any thread but one at a time.

    Damaged pieces are set aside in files beside their segment, unless not *keeps_damage*; they are
    counted and logged once, and so are bytes that somebody removed.
    """

    def __init__(
        self, directory: Path, *, file_mode: int = FILE_MODE, keeps_damage: bool = True
    ) -> None:
        self._folder = Folder(directory)
        self._aside = Aside(directory, file_mode=file_mode, is_kept=keeps_damage)
        self._pieces = Pieces(self._aside)

    @property
    def damaged_frames(self) -> int:
        """Damaged pieces, and stretches that were removed, that were met so far."""
        return self._aside.damaged_frames

    def view(self) -> View:
        """Return the segments of now; the newest may be growing.

        Raises:
            OSError: The folder can't be listed.

        """
        return self._folder.view()

    def read(self, position: int, *, bytes_max: int, end: int | None = None) -> Chunk:
        """Return the frames from *position* on that take at most *bytes_max*, but at least one.

        Nothing beyond *end* is read, which is the acknowledged end or one below it. Without it, all
        whole frames are, also one that may yet be refused. A chunk's range is read again as it was
        with its `end`, and `end - position` for *bytes_max*. Damage and what was removed are
        stepped over, so a chunk without frames can end above its start.

        Raises:
            OSError: The disk refused to read; the text says which file.

        """
        return self._pieces.read(self._folder.view(position + bytes_max), position, bytes_max, end)


class Folder:
    """The segments of a directory, listed again when it may have changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._view = View((), None)
        self._changed_ns = -1

    def view(self, position: int = POSITION_MAX) -> View:
        """Return the segments, those that hold positions up to *position* as they are now.

        Raises:
            OSError: The directory can't be listed.

        """
        newest = self._view.newest
        if newest is not None and position < newest.base:
            # What is sealed doesn't change, but for being deleted.
            return self._view
        changed_ns = self._directory.stat().st_mtime_ns
        if changed_ns != self._changed_ns:
            is_settled = time.time_ns() - changed_ns > SETTLED_NS
            segments = find(self._directory).segments
            self._view = View(tuple(segments[:-1]), segments[-1] if segments else None)
            self._changed_ns = changed_ns if is_settled else -1
        return self._view


class Pieces:
    """From a view of segments to chunks; opens a file for each segment that it passes."""

    def __init__(self, aside: Aside, spare: SpareFiles | None = None) -> None:
        self._aside = aside
        self._spare = spare

    def read(
        self, view: View, position: int, bytes_max: int, end: int | None, *, first: int = 0
    ) -> Chunk:
        """Return a chunk as `Reader.read` does; what lies below *first* was let go of."""
        frames: list[Stored] = []
        at = max(position, first)
        limit = POSITION_MAX if end is None else end
        segment = None
        for segment in view.since(position):
            left = bytes_max - (at - position)
            if left <= 0 or at >= limit or segment.base > limit:
                break
            if segment.end == segment.base:
                # Begun, and nothing was written yet.
                at = max(at, segment.base)
            if at >= segment.end:
                continue
            at, is_through = self._read_named(
                segment, at, limit, left, frames, is_growing=end is None and segment is view.newest
            )
            if not is_through:
                return Chunk(position, at, tuple(frames))
        if end is not None and at < end and bytes_max > at - position:
            # All that was acknowledged was in some file.
            self._aside.miss(segment.path.name if segment else "", at, end - at)
            at = end
        return Chunk(position, at, tuple(frames))

    def _read_named(
        self,
        segment: Segment,
        at: int,
        limit: int,
        size: int,
        frames: list[Stored],
        *,
        is_growing: bool,
    ) -> tuple[int, bool]:
        """Do as `_read_segment`; a file that is gone was read through, and errors name it."""
        try:
            return self._read_segment(segment, at, limit, size, frames, is_growing=is_growing)
        except FileNotFoundError:
            stop = min(segment.end, limit)
            if stop < POSITION_MAX:
                self._aside.miss(segment.path.name, at, stop - at)
                at = stop
            return at, True
        except MemoryError as error:
            text = os.strerror(errno.ENOMEM)
            raise OSError(errno.ENOMEM, text, str(segment.path)) from error
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(segment.path)) from error

    def _read_segment(
        self,
        segment: Segment,
        at: int,
        limit: int,
        size: int,
        frames: list[Stored],
        *,
        is_growing: bool,
    ) -> tuple[int, bool]:
        """Add frames; return where reading goes on, and whether the segment is read through."""
        fd = self._open(segment)
        try:
            stop = min(segment.end, limit, segment.base + _file_bytes(fd))
            has_header = segment.has_header and at < segment.start
            begin = segment.base if has_header else max(at, segment.base)
            header_bytes = HEADER_BYTES if has_header else 0
            size = max(min(size + header_bytes, stop - begin), header_bytes)
            buffer = _pread(fd, size, begin - segment.base)
            at = self._pass_header(segment, buffer, at, stop) if has_header else begin
            while at < stop:
                is_last = begin + len(buffer) >= stop
                read = self._collect(
                    segment, begin, buffer, at - begin, frames, is_whole=is_last and not is_growing
                )
                if begin + read > at or frames or is_last:
                    at = begin + read
                    break
                mark = frame.header_at(buffer, at - begin)
                needed = mark.end - mark.start if mark else GROWTH * len(buffer)
                begin = at
                buffer = _pread(fd, min(needed, stop - at), at - segment.base)
            return at, at >= stop
        finally:
            self._close(fd)

    def _pass_header(self, segment: Segment, data: bytes, at: int, stop: int) -> int:
        """Return where the first frame is, after a look at what is missing before it."""
        after = max(at, min(segment.start, stop))
        header = unpack_header(data)
        if header is None:
            if stop > segment.start:
                self._aside.keep(segment.path, 0, data[:HEADER_BYTES])
            return after
        missing = min(header.end_before, segment.base) - at
        if missing > 0:
            self._aside.miss(segment.path.name, at, missing)
        if header.version != VERSION:
            self._aside.miss(f"{segment.path.name} version={header.version}", after, stop - after)
            return stop
        return after

    def _collect(
        self,
        segment: Segment,
        begin: int,
        buffer: bytes,
        offset: int,
        frames: list[Stored],
        *,
        is_whole: bool,
    ) -> int:
        """Add the frames of *buffer* from *offset* on, and set aside what is none.

        *begin* is the buffer's position. Return the offset that this came to. When *is_whole*
        nothing belongs to the buffer that lies behind it.
        """
        view = memoryview(buffer)
        in_file = begin - segment.base
        for part in frame.scan(buffer, offset):
            if isinstance(part, frame.Gap) or part.is_damaged:
                self._aside.keep(segment.path, in_file + part.offset, view[part.offset : part.end])
            elif part.events:
                payload = view[part.payload_start : part.payload_end]
                known = view[part.facts_start : part.payload_start]
                frames.append(Stored(begin + part.offset, part.events, payload, known))
            offset = part.end
        if is_whole and offset < len(buffer):
            self._aside.keep(segment.path, in_file + offset, view[offset:])
            offset = len(buffer)
            self._aside.expect(begin + offset)
        return offset

    def _open(self, segment: Segment) -> int:
        if self._spare is None:
            return os.open(segment.file, OPEN_FLAGS)
        return self._spare.open(lambda: os.open(segment.file, OPEN_FLAGS))

    def _close(self, fd: int) -> None:
        if self._spare is None:
            os.close(fd)
        else:
            self._spare.close(fd)


def _file_bytes(fd: int) -> int:
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "is no regular file")
    return info.st_size


def _pread(fd: int, size: int, offset: int) -> bytes:
    """Read *size* bytes, or as many as there are."""
    data = os.pread(fd, size, offset)
    if len(data) == size:
        return data
    parts = [data]
    while data and (size := size - len(data)) > 0:
        offset += len(data)
        data = os.pread(fd, size, offset)
        parts.append(data)
    return b"".join(parts)
