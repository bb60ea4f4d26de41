"""What a writer's files have behind a placement that was saved: compared, kept, or cut."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

from segsrv.files import sync_dir
from segsrv.sinks.base import Lines
from segsrv.sinks.file.names import is_closed

PIECE_BYTES = 8 << 10


class FileTail:
    """Walks through *files*, relative to *root*, in order: the first from *offset* on.

    What is kept is written again as it is, which no reader sees: a sync that failed may have left
    it in memory alone. A file that is closed, or was taken away or emptied, is only read; with
    *is_read_only* each is.
    """

    def __init__(
        self, root: Path, files: Sequence[str], offset: int, *, is_read_only: bool = False
    ) -> None:
        self.file, *self._later = files
        self.offset = offset
        self.passed = [self.file]
        self._root = root
        self._is_read_only = is_read_only
        self._fd = -1
        self._open()

    def matches(self, content: Lines) -> tuple[int, int]:
        """Return how many of the lines of *content* stand next, and how many bytes that is."""
        found = self._read(len(content))
        if found == content:
            return found.count(b"\n"), len(found)
        lines = size = 0
        for line in io.BytesIO(content):
            if found[size : size + len(line)] != line:
                break
            lines, size = lines + 1, size + len(line)
        return lines, size

    def line(self) -> bytes | None:
        """Return the line that stands next; None for the end, or what a crash left of a line."""
        size = PIECE_BYTES
        while True:
            found = self._read(size)
            end = found.find(b"\n") + 1
            if end:
                # A power cut may leave zeros where the data of a write was still to come.
                return None if b"\0" in found[:end] else found[:end]
            if len(found) < size or b"\0" in found:
                return None
            size *= 2

    def keep(self, size: int) -> None:
        """Pass over *size* bytes, lines that stand next."""
        if not self._is_closed:
            data, at = memoryview(self._read(size)), self.offset
            while data:
                written = os.pwrite(self._fd, data, at)
                data, at = data[written:], at + written
        self.offset += size

    def cut(self) -> None:
        """Take away all that follows."""
        if self._fd >= 0 and not self._is_closed and os.fstat(self._fd).st_size > self.offset:
            os.ftruncate(self._fd, self.offset)
        for name in reversed(self._later):
            path = self._root / name
            if not self._is_read_only and not is_closed(path.stat()):
                path.unlink()
                # One by one: were an earlier one gone and this one not, a start would find a gap.
                sync_dir(path.parent)
        self._later.clear()

    def end(self) -> None:
        """Put on stable storage what was kept and cut.

        Raises:
            OSError: It may not be.

        """
        try:
            if self._fd >= 0:
                # Also what is only read: whoever wrote it may have been killed before its sync.
                os.fdatasync(self._fd)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _read(self, size: int) -> bytes:
        """Return up to *size* bytes that stand next, of one file."""
        while True:
            found = os.pread(self._fd, size, self.offset) if self._fd >= 0 else b""
            if found or not self._later:
                return found
            # It was on stable storage before the later one was begun.
            self.close()
            self.file, self.offset = self._later.pop(0), 0
            self.passed.append(self.file)
            self._open()

    def _open(self) -> None:
        path = self._root / self.file
        self._is_closed = False
        try:
            status = path.stat()
            if status.st_size < self.offset:
                return
            self._is_closed = self._is_read_only or is_closed(status)
            self._fd = os.open(path, os.O_RDONLY if self._is_closed else os.O_RDWR)
        except FileNotFoundError:
            pass
