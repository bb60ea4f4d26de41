"""Segment files: their names, their header, and what a journal's folder holds of them.

A position is a byte offset into the whole journal since it began. A segment file is named after the
position of its first byte, so `position - base` is the offset in the file. It begins with a header
of 64 bytes, which count as positions too:

    magic (8)  version (4)  journal id (16)  base (8)  end before (8)  created, ms (8)  zeros (8)
    CRC-32 (4)

The journal id is random and the same in all segments of a journal. The end before is the position
behind the last acknowledged byte of the segment before, which says whether bytes between the two
are missing. Files with the suffix `.journal`, of the first releases, have no header.

A segment ends where the next one begins: what a write that failed left behind that was refused.
Anything else in the folder is somebody else's and stays untouched.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from segsrv.journal import frame
from segsrv.journal.crc import crc32

SUFFIX = ".segment"
SUFFIX_1 = ".journal"
MAGIC = b"\x00SEGSRV\n"
VERSION = 2
_FIELDS = struct.Struct("<8sI16sQQQ8x")
_CRC = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CRC.size
OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
"""A link or a pipe may have come in the place of a file meanwhile."""
POSITION_MAX = (1 << 63) - 1
LOOK_BACK_BYTES = 512 << 10
_NAME = re.compile(r"([0-9]{20})\.(segment|journal)")


class Segment(NamedTuple):
    """A segment file; `end` is the position after its last acknowledged byte.

    In a folder that another process writes, `end` is where the next segment begins, and beyond
    every position for the newest.
    """

    base: int
    end: int
    file: str
    has_header: bool = True

    @property
    def path(self) -> Path:
        """The file's path; made when asked for, since thousands are listed at once."""
        return Path(self.file)

    @property
    def start(self) -> int:
        """The position of its first frame."""
        return self.base + HEADER_BYTES if self.has_header else self.base


class View(NamedTuple):
    """The segments of a journal at one moment, in order."""

    sealed: tuple[Segment, ...]
    newest: Segment | None

    def since(self, position: int) -> Iterator[Segment]:
        """Yield the segment that *position* is in, or else the next one, and all after it."""
        if self.newest is None or position < self.newest.base:
            index = bisect_right(self.sealed, position, key=lambda segment: segment.base)
            for number in range(max(index - 1, 0), len(self.sealed)):
                yield self.sealed[number]
        if self.newest is not None:
            yield self.newest


class Header(NamedTuple):
    """What the first bytes of a segment say; times in ms since 1970."""

    journal_id: str
    base: int
    end_before: int
    created_ms: int
    version: int = VERSION


class Found(NamedTuple):
    """The segment files of a folder in order, and names that look like one and are none."""

    segments: list[Segment]
    foreign: list[str]


def segment_path(directory: Path, base: int) -> Path:
    return directory / f"{base:020d}{SUFFIX}"


def pack_header(header: Header) -> bytes:
    """Return the bytes that a segment begins with."""
    fields = _FIELDS.pack(
        MAGIC,
        header.version,
        bytes.fromhex(header.journal_id),
        header.base,
        header.end_before,
        header.created_ms,
    )
    return fields + _CRC.pack(crc32(fields))


def unpack_header(data: bytes | memoryview) -> Header | None:
    """Return the header that *data* begins with, or None if that is not sound."""
    if len(data) < HEADER_BYTES:
        return None
    if _CRC.unpack_from(data, _FIELDS.size)[0] != crc32(data[: _FIELDS.size]):
        return None
    magic, version, journal_id, base, end_before, created_ms = _FIELDS.unpack_from(data)
    if magic != MAGIC:
        return None
    return Header(journal_id.hex(), base, end_before, created_ms, version)


def find(directory: Path) -> Found:
    """Return what *directory* holds, without opening a file.

    Raises:
        OSError: It can't be listed.

    """
    names: list[tuple[int, bool, str]] = []
    foreign = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.name.endswith((SUFFIX, SUFFIX_1)):
                continue
            name = _NAME.fullmatch(entry.name)
            base = int(name[1]) if name else POSITION_MAX
            if base < POSITION_MAX and entry.is_file(follow_symlinks=False):
                names.append((base, entry.name.endswith(SUFFIX), entry.name))
            else:
                foreign.append(entry.name)
    # At one base the older format comes first: an empty file that the release before began there.
    names.sort()
    ends = [base for base, _has_header, _name in names[1:]] + [POSITION_MAX]
    segments = [
        Segment(base, end, f"{directory}{os.sep}{name}", has_header)
        for (base, has_header, name), end in zip(names, ends, strict=False)
    ]
    return Found(segments, sorted(foreign))


def open_segment(path: Path) -> int:
    """Open a segment file to be read; never a link, and never waits.

    Raises:
        OSError: It can't be opened, or is no file.

    """
    fd = os.open(path, OPEN_FLAGS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return fd


def written_bytes(fd: int) -> int:
    """Return how much of a segment was written: behind that are zeros, room that was made ahead.

    Raises:
        OSError: It can't be read.

    """
    size = os.fstat(fd).st_size
    look_back_bytes = LOOK_BACK_BYTES
    while True:
        at = max(size - look_back_bytes, 0)
        used = frame.written_bytes(os.pread(fd, size - at, at))
        if used >= frame.TRAILER_BYTES or at == 0:
            return max(at + used, min(size, HEADER_BYTES))
        look_back_bytes *= 2


def read_header(segment: Segment) -> Header | None:
    """Return the header of *segment*; None if it has none, or no sound one.

    Raises:
        OSError: It can't be read.

    """
    if not segment.has_header:
        return None
    fd = open_segment(segment.path)
    try:
        return unpack_header(os.pread(fd, HEADER_BYTES, 0))
    finally:
        os.close(fd)


def created_ms(segment: Segment) -> int:
    """Return when *segment* was begun, in ms since 1970; of one without a header, last written.

    No event in it was received much before, and none in the segments before it after: so times are
    sought by bisection.

    Raises:
        OSError: It can't be read.

    """
    header = read_header(segment)
    return header.created_ms if header else segment.path.lstat().st_mtime_ns // 1_000_000


def journal_id(segments: list[Segment]) -> str | None:
    """Return the id that the newest sound header says; None if there is none.

    Raises:
        OSError: A file can't be read.

    """
    for segment in reversed(segments):
        header = read_header(segment)
        if header is not None:
            return header.journal_id
    return None
