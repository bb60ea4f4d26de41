"""What a journal's folder holds when it is opened: segments, their id, and how far they are whole.

Only the newest segment is checked: what a crash can have left is at its end. The others were on
stable storage before the next one began; damage in them is found when they are read.
"""

from __future__ import annotations

import logging
import os
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from segsrv.journal import frame
from segsrv.journal.aside import Aside
from segsrv.journal.segments import (
    HEADER_BYTES,
    VERSION,
    Header,
    Segment,
    find,
    journal_id,
    open_segment,
    unpack_header,
)

logger = logging.getLogger(__name__)

FOREIGN_SHOWN_MAX = 3


class Piece(NamedTuple):
    """Bytes of a segment that are no frame, by their offsets in the file."""

    offset: int
    end: int
    is_torn: bool


class Tail(NamedTuple):
    """What the newest segment holds: the offset behind its last whole frame, and other pieces."""

    header: Header | None
    good: int
    size: int
    pieces: list[Piece]


class Recovered(NamedTuple):
    """The segments of a journal, the newest one checked; no id where no header says one.

    `is_begun` says that the newest one is empty and can be written to as it is.
    """

    segments: list[Segment]
    journal_id: str | None
    is_begun: bool


class Identity(NamedTuple):
    """Which journal a folder holds, and the positions of its first byte and behind its last."""

    journal_id: str | None
    first: int
    end: int


def identify(directory: Path) -> Identity | None:
    """Look at the journal in *directory*, changing nothing; None if there is none.

    Raises:
        OSError: It can't be read.

    """
    try:
        segments = find(directory).segments
    except FileNotFoundError:
        return None
    if not segments:
        return None
    newest = segments[-1]
    good = check_tail(newest.has_header, _read(newest)).good
    end = newest.base + good if newest.base + good > newest.start else newest.base
    return Identity(journal_id(segments), segments[0].base, end)


def recover(directory: Path, aside: Aside) -> Recovered:
    """Find the segments of *directory*, and cut off what a crash left at the end of the newest.

    What is cut off is kept by *aside*; what can't be kept stays where it is, behind the end.

    Raises:
        OSError: They can't be read.

    """
    found = find(directory)
    if found.foreign:
        logger.warning(
            "journal: files that are no segments are left alone count=%d files=%s",
            len(found.foreign),
            ", ".join(found.foreign[:FOREIGN_SHOWN_MAX]),
        )
    segments = [segment._replace(end=_file_end(segment)) for segment in found.segments]
    for index, (segment, after) in enumerate(pairwise(segments)):
        # What a failed write left beyond the next segment's first byte was never acknowledged.
        segments[index] = segment._replace(end=min(segment.end, after.base))
    if not segments:
        return Recovered([], None, is_begun=False)
    newest = segments[-1]
    data = _read(newest)
    tail = check_tail(newest.has_header, data)
    if tail.header is not None and tail.header.version != VERSION:
        logger.error(
            "journal: a segment of another version is left alone file=%s version=%d",
            newest.path.name,
            tail.header.version,
        )
        return Recovered(segments, journal_id(segments), is_begun=False)
    kept = [
        aside.keep(newest.path, piece.offset, data[piece.offset : piece.end], is_torn=piece.is_torn)
        for piece in tail.pieces
    ]
    size = tail.size
    if tail.good < size and all(kept):
        size = _cut(newest.path, tail.good, size)
    is_empty = newest.base + tail.good <= newest.start
    segments[-1] = newest._replace(end=newest.base if is_empty else newest.base + tail.good)
    is_begun = newest.has_header and tail.header is not None and size == HEADER_BYTES
    return Recovered(segments, journal_id(segments), is_begun)


def check_tail(has_header: bool, data: bytes) -> Tail:  # noqa: FBT001
    """Find the last whole frame in the bytes of a segment, and what is neither frame nor room."""
    size = len(data)
    header = None
    pieces = []
    good = start = min(HEADER_BYTES if has_header else 0, size)
    data = data[: max(frame.written_bytes(data), start)]
    if has_header:
        header = unpack_header(data)
        if header is not None and header.version != VERSION:
            return Tail(header, size, size, [])
        if header is None and data.strip(b"\0"):
            # A file that a crash left with a part of its header, or of zeros, holds nothing.
            pieces.append(Piece(0, start, is_torn=len(data) <= HEADER_BYTES))
    whole = start
    for part in frame.scan(data, start):
        whole = part.end
        if isinstance(part, frame.Gap) or part.is_damaged:
            pieces.append(Piece(part.offset, part.end, is_torn=False))
        else:
            good = part.end
    if whole < len(data):
        pieces.append(Piece(whole, len(data), is_torn=False))
    if pieces and pieces[-1].end == len(data) > start:
        last = pieces[-1]
        pieces[-1] = last._replace(is_torn=frame.is_torn(data[last.offset :], last.offset))
    if header is None and has_header and good == start:
        good = 0
    return Tail(header, good, size, pieces)


def _read(segment: Segment) -> bytes:
    fd = open_segment(segment.path)
    with open(fd, "rb", buffering=0) as file:  # noqa: PTH123
        return file.readall()


def _file_end(segment: Segment) -> int:
    try:
        return segment.base + segment.path.lstat().st_size
    except FileNotFoundError:
        return segment.base


def _cut(path: Path, good: int, size: int) -> int:
    """Shorten the file at *path*; return its size, the one that it had if that can't be done."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.ftruncate(fd, good)
        finally:
            os.close(fd)
    except OSError as error:
        logger.warning("journal: can't cut off an unfinished commit: %s", error)
        return size
    return good
