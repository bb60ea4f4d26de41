"""Items that can't be stored as events, kept with their reason; oldest files go first."""

from __future__ import annotations

import os
from pathlib import Path

from segsrv.errors import JournalFault, JournalFull
from segsrv.files import FILE_MODE, is_full, make_dir, open_file, sync_dir, write_all

FILES = 16
NUMBER_DIGITS = 8
TAIL_BYTES = 64 << 10


class DeadLetters:
    """Appends NDJSON lines to numbered files; the oldest goes when all take *bytes_max*.

    Belongs to one thread. Files are named `<prefix>-<number>.ndjson`.
    """

    def __init__(
        self, directory: Path, *, prefix: str, bytes_max: int, file_mode: int = FILE_MODE
    ) -> None:
        self.directory = directory
        self._prefix = prefix
        self._file_bytes_max = max(bytes_max // FILES, 1)
        self._file_mode = file_mode
        self._whole: Path | None = None

    def append(self, lines: list[bytes]) -> None:
        """Write *lines* and wait until they are on stable storage.

        Raises:
            JournalFull: The disk is full.
            JournalFault: The disk refused them.

        """
        try:
            make_dir(self.directory, self._file_mode)
            path = self._current()
            fd = open_file(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, self._file_mode)
            try:
                self._write(fd, path, lines)
            finally:
                os.close(fd)
            if path != self._whole:
                sync_dir(self.directory)
            self._whole = path
        except OSError as error:
            kind = JournalFull if is_full(error) else JournalFault
            raise kind(f"dead letters can't be written: {error.strerror}") from error

    def _write(self, fd: int, path: Path, lines: list[bytes]) -> None:
        if path != self._whole:
            # A crash, or a failure that could not be undone, may have left half a line, and what is
            # written behind that could not be parsed.
            os.ftruncate(fd, _whole_bytes(fd))
        size = os.fstat(fd).st_size
        try:
            write_all(fd, [b"".join(lines)])
            os.fdatasync(fd)
        except OSError:
            self._whole = None
            os.ftruncate(fd, size)
            raise

    def _current(self) -> Path:
        files = self._files()
        if files and files[-1].stat().st_size < self._file_bytes_max:
            return files[-1]
        for old in files[: -(FILES - 1)]:
            old.unlink(missing_ok=True)
        number = int(files[-1].stem.rpartition("-")[2]) + 1 if files else 1
        return self.directory / f"{self._prefix}-{number:0{NUMBER_DIGITS}d}.ndjson"

    def _files(self) -> list[Path]:
        # Digits only: the prefix `w0` must not take the files of `w0-file` for its own.
        return sorted(self.directory.glob(f"{self._prefix}-{'[0-9]' * NUMBER_DIGITS}.ndjson"))


def _whole_bytes(fd: int) -> int:
    """Return where the last line ends, read from the end in pieces."""
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(end - TAIL_BYTES, 0)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
