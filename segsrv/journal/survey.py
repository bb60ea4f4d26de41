"""A journal seen from outside, beside a server that goes on writing and deleting.

No lock is taken and nothing written. Segment files are opened ahead of being read, the oldest
first, because a server deletes these first and an open file stays readable. What is acknowledged
only the server knows: the newest events may be those of a request that is still being answered,
and an unfinished commit at the very end is no damage.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from segsrv.files import file_version
from segsrv.journal import facts, frame, segments
from segsrv.journal.facts import Run
from segsrv.journal.reader import Stored
from segsrv.journal.segments import (
    HEADER_BYTES,
    POSITION_MAX,
    VERSION,
    Header,
    Segment,
    unpack_header,
)

FILES_OPEN_MAX = 200
WINDOW_BYTES = 4 << 20
HOP_BYTES = 4_096
GROWTH = 4
DAMAGED, MISSING, UNFINISHED = "damaged", "missing", "unfinished"


class Fault(NamedTuple):
    """Bytes of a journal that are no frame, from *position* on, and what is wrong with them."""

    name: str
    position: int
    bytes: int
    what: str


class Summary(NamedTuple):
    """A frame without its lines; `facts` is empty where they were written without."""

    position: int
    end: int
    events: int
    facts: bytes

    @property
    def runs(self) -> list[Run]:
        """What is known of the events; nothing where the facts are damaged."""
        try:
            return facts.decode(self.facts) if self.facts else []
        except (ValueError, TypeError):
            return []


class Opened(NamedTuple):
    """A segment with its open file: reading goes from *start* to *end*, and *missing* bytes more.

    All are positions but *missing*. `is_newest` when a server may still be writing to it.
    """

    segment: Segment
    fd: int
    start: int
    end: int
    missing: int
    is_newest: bool


class Survey:
    """The segments that a journal has at this moment.

    `gone` counts those that a server deleted before they could be read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.gone = 0
        self.segments: Sequence[Segment] = segments.find(directory).segments
        self.sizes = [_size(segment) for segment in self.segments]
        if self.segments:
            self.sizes[-1] = _written_bytes(self.segments[-1])
        newest_first = (header_of(segment) for segment in reversed(self.segments))
        self.id = next((header.journal_id for header in newest_first if header), "")

    @property
    def first(self) -> int:
        """The position of the oldest byte."""
        return self.segments[0].base if self.segments else 0

    @property
    def end(self) -> int:
        """The position behind the newest byte, acknowledged or not."""
        if not self.segments:
            return 0
        newest, file_bytes = self.segments[-1], self.sizes[-1]
        # A header alone is no event, and its place is passed over by the first one.
        is_begun = file_bytes > newest.start - newest.base
        return newest.base + (file_bytes if is_begun else 0)

    @property
    def bytes(self) -> int:
        """What the files take."""
        return sum(self.sizes)

    def frames(self, start: int = 0, end: int | None = None) -> Iterator[Stored | Fault]:
        """Yield every frame from *start* on, checked, and what is none.

        Raises:
            OSError: A file can't be read.

        """
        for opened in self._opened(start, end):
            header = _header_fault(opened)
            if header is not None:
                yield header
            if header is None or header.what == DAMAGED:
                yield from _scanned(opened)
            if opened.missing:
                yield Fault(opened.segment.path.name, opened.end, opened.missing, MISSING)

    def summaries(self, start: int = 0, end: int | None = None) -> Iterator[Summary]:
        """Yield what the headers of frames say, without a look at the lines and their checksums.

        Raises:
            OSError: A file can't be read.

        """
        for opened in self._opened(start, end):
            yield from _hops(opened)

    def _opened(self, start: int, end: int | None) -> Iterator[Opened]:
        """Yield the segments between two positions, without those that were deleted meanwhile."""
        todo = deque(
            segment
            for segment in self.segments
            if segment.end > start and (end is None or segment.base < end)
        )
        ahead: deque[tuple[Segment, int]] = deque()
        try:
            while todo or ahead:
                while todo and len(ahead) < FILES_OPEN_MAX:
                    segment = todo.popleft()
                    ahead.append((segment, _open(segment)))
                segment, fd = ahead.popleft()
                if fd < 0:
                    self.gone += 1
                    continue
                try:
                    yield _limited(segment, fd, ahead[0] if ahead else None, start, end)
                finally:
                    os.close(fd)
        finally:
            for _segment, fd in ahead:
                if fd >= 0:
                    os.close(fd)


def header_of(segment: Segment) -> Header | None:
    """Return the header of a segment; None if it has none, or was deleted meanwhile."""
    try:
        return segments.read_header(segment)
    except FileNotFoundError:
        return None


def _open(segment: Segment) -> int:
    try:
        return segments.open_segment(segment.path)
    except FileNotFoundError:
        return -1


def _size(segment: Segment) -> int:
    version = file_version(segment.path)
    return version[1] if version else 0


def _written_bytes(segment: Segment) -> int:
    fd = _open(segment)
    if fd < 0:
        return 0
    try:
        return segments.written_bytes(fd)
    finally:
        os.close(fd)


def _limited(
    segment: Segment, fd: int, after: tuple[Segment, int] | None, start: int, end: int | None
) -> Opened:
    """Say what of an open segment counts, given the one *after* it."""
    is_newest = segment.end == POSITION_MAX
    file_bytes = segments.written_bytes(fd) if is_newest else os.fstat(fd).st_size
    file_end = segment.base + file_bytes
    first = max(segment.start, start)
    if after is None:
        # The one after it may not be among those that were asked for.
        stop = min(file_end, segment.end, file_end if end is None else end)
        return Opened(segment, fd, first, stop, 0, is_newest)
    following, following_fd = after
    expected = None
    if following_fd >= 0 and following.has_header:
        header = unpack_header(os.pread(following_fd, HEADER_BYTES, 0))
        if header is not None:
            # Behind that is what was refused.
            expected = min(header.end_before, following.base)
    stop = min(file_end, following.base if expected is None else expected)
    missing = 0 if expected is None else max(expected - max(file_end, start), 0)
    return Opened(segment, fd, first, stop, missing, is_newest=False)


def _header_fault(opened: Opened) -> Fault | None:
    segment = opened.segment
    if not segment.has_header or opened.end <= segment.base:
        return None
    data = os.pread(opened.fd, HEADER_BYTES, 0)
    header = unpack_header(data)
    if header is None:
        if len(data) < HEADER_BYTES and opened.is_newest:
            return None
        return Fault(segment.path.name, segment.base, len(data), DAMAGED)
    if header.version != VERSION:
        size = opened.end - segment.base
        return Fault(segment.path.name, segment.base, size, f"version {header.version}")
    return None


def _scanned(opened: Opened) -> Iterator[Stored | Fault]:
    """Yield the frames of a segment and what is none, read in windows."""
    base, name = opened.segment.base, opened.segment.path.name
    at, size = opened.start, WINDOW_BYTES
    while at < opened.end:
        buffer = _pread(opened.fd, min(size, opened.end - at), at - base)
        if not buffer:
            return
        view, read = memoryview(buffer), 0
        for part in frame.scan(buffer):
            if isinstance(part, frame.Gap) or part.is_damaged:
                yield Fault(name, at + part.offset, part.end - part.offset, DAMAGED)
            elif part.events:
                yield Stored(
                    at + part.offset,
                    part.events,
                    view[part.payload_start : part.payload_end],
                    view[part.facts_start : part.payload_start],
                )
            read = part.end
        if read:
            at, size = at + read, WINDOW_BYTES
        elif at + len(buffer) >= opened.end:
            is_torn = opened.is_newest and frame.is_torn(buffer, at - base)
            yield Fault(name, at, len(buffer), UNFINISHED if is_torn else DAMAGED)
            return
        else:
            mark = frame.header_at(buffer, 0)
            size = mark.end if mark else GROWTH * size


def _hops(opened: Opened) -> Iterator[Summary]:
    """Yield the frames of a segment, from header to header; damage is stepped over."""
    base, at = opened.segment.base, opened.start
    while at < opened.end:
        data = os.pread(opened.fd, HOP_BYTES, at - base)
        mark = frame.header_at(data, 0)
        if mark is None:
            # Found by its trailer, or there is damage: rare, so the whole rest is looked at.
            yield from _summed(opened._replace(start=at))
            return
        if at + mark.end > opened.end:
            return
        known = data[mark.facts_start : mark.payload_start]
        if mark.payload_start > len(data):
            size = mark.payload_start - mark.facts_start
            known = _pread(opened.fd, size, at - base + mark.facts_start)
        yield Summary(at, at + mark.end, mark.events, known)
        at += mark.end


def _summed(opened: Opened) -> Iterator[Summary]:
    for item in _scanned(opened):
        if isinstance(item, Stored):
            end = item.position + frame.OVERHEAD_BYTES + len(item.payload)
            yield Summary(item.position, end, item.events, facts.join(map(facts.encode, item.runs)))


def _pread(fd: int, size: int, offset: int) -> bytes:
    """Read *size* bytes, or as many as there are."""
    parts = []
    while size > 0 and (part := os.pread(fd, size, offset)):
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
