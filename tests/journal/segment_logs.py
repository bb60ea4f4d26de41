"""Opens and empties segment logs for the tests of this folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.frame import OVERHEAD_BYTES
from segsrv.journal.group_commit import GroupCommit
from segsrv.journal.log import SegmentLog
from segsrv.journal.segments import HEADER_BYTES

READ_BYTES = 1 << 20
SEGMENT_START = HEADER_BYTES


@contextmanager
def opened(
    directory: Path,
    *,
    segment_bytes_max: int = 1 << 20,
    disk_free_bytes_min: int = 0,
    position_min: int = 0,
) -> Iterator[SegmentLog]:
    """Open the log of *directory* for the length of a `with` block."""
    log = SegmentLog(
        directory,
        segment_bytes_max=segment_bytes_max,
        disk_free_bytes_min=disk_free_bytes_min,
        is_synced=True,
        position_min=position_min,
    )
    try:
        yield log
    finally:
        log.close()


def committing(
    log: SegmentLog,
    directory: Path,
    *,
    pending_bytes_max: int = 1 << 20,
    journal_bytes_max: int = 1 << 20,
    waits_for_disk: bool = True,
) -> GroupCommit:
    """Return a group commit of *log* with dead letters in *directory*."""
    return GroupCommit(
        log,
        DeadLetters(directory / "dead-letter", prefix="w0", bytes_max=1 << 20),
        pending_bytes_max=pending_bytes_max,
        journal_bytes_max=journal_bytes_max,
        waits_for_disk=waits_for_disk,
    )


def refuse(*_arguments: object, **_options: object) -> None:
    raise OSError(5, "Input/output error")


def refuse_syncs(patch: pytest.MonkeyPatch) -> None:
    """Let each sync of data fail, of a write too: what that wrote is in the file then."""
    write = os.pwritev

    def write_unsafely(fd: int, parts: Sequence[bytes], offset: int, flags: int = 0) -> int:
        written = write(fd, parts, offset)
        if flags:
            refuse()
        return written

    patch.setattr(os, "pwritev", write_unsafely)
    patch.setattr(os, "fdatasync", refuse)


def payload(number: int, *, size: int = 0) -> bytes:
    """Return a payload of one line that names *number*, of at least *size* bytes."""
    return b'{"n":%d,"pad":"%s"}\n' % (number, b"x" * size)


def fill(directory: Path, numbers: range, *, size: int = 0) -> list[int]:
    """Append a frame for each number and return the position of each."""
    with opened(directory) as log:
        positions = []
        for number in numbers:
            positions.append(max(log.end, SEGMENT_START))
            log.append(payload(number, size=size), 1)
    return positions


def drain(log: SegmentLog, *, position: int = 0, bytes_max: int = READ_BYTES) -> list[bytes]:
    """Return every line from *position* on, in order."""
    lines: list[bytes] = []
    while position < log.end:
        batch = log.read(position, bytes_max=bytes_max)
        assert batch.end > position, "the reader does not get on"
        assert batch.events == batch.lines.count(b"\n")
        assert position == batch.start
        lines += batch.lines.splitlines(keepends=True)
        position = batch.end
    return lines


def journal_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.segment"))


def set_aside(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.damaged-*"))


def cut_off(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.torn-*"))


def flip(path: Path, offset: int) -> None:
    """Damage one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def frame_bytes(number: int, *, size: int = 0) -> int:
    """Return how long the frame of `payload(number)` is on disk."""
    return OVERHEAD_BYTES + len(payload(number, size=size))
