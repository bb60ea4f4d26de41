"""Items that can't be stored as events, kept with their reason; oldest files go first."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from segsrv.errors import JournalFault, JournalFull
from segsrv.files import (
    FILE_MODE,
    file_version,
    is_full,
    make_dir,
    open_file,
    sync_dir,
    write_all,
)

FILES = 16
FILES_MAX = 1_000
OPEN_TRIES = 100
NUMBER_DIGITS = 8
TAIL_BYTES = 64 << 10


class DeadLetters:
    """Appends NDJSON lines to numbered files; the oldest goes when all take *bytes_max*.

    Belongs to one thread. Files are named `<prefix>-<number>.ndjson`. A file is locked while lines
    are appended. Where a command holds the lock to take letters out, the next file is begun: the
    server never waits for a command.
    """

    def __init__(
        self, directory: Path, *, prefix: str, bytes_max: int, file_mode: int = FILE_MODE
    ) -> None:
        self.directory = directory
        self._prefix = prefix
        self._bytes_max = bytes_max
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
            fd, path = self._open()
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
            os.ftruncate(fd, whole_bytes(fd))
        size = os.fstat(fd).st_size
        try:
            write_all(fd, [b"".join(lines)])
            os.fdatasync(fd)
        except OSError:
            self._whole = None
            os.ftruncate(fd, size)
            raise

    def _open(self) -> tuple[int, Path]:
        """Open the newest file and lock it; begin the next where it is full or locked."""
        held: Path | None = None
        for _ in range(OPEN_TRIES):
            path = self._current(held)
            fd = open_file(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, self._file_mode)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A command may have put another file in its place since it was opened.
                if os.fstat(fd).st_nlink:
                    return fd, path
            except BlockingIOError:
                held = path
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def _current(self, held: Path | None) -> Path:
        """Return the file to append to, which is not *held*."""
        files = self._files()
        if files and files[-1] != held and _size(files[-1]) < self._file_bytes_max:
            return files[-1]
        total_bytes = sum(map(_size, files))
        while len(files) >= FILES and (
            total_bytes > self._bytes_max - self._file_bytes_max or len(files) >= FILES_MAX
        ):
            total_bytes -= _size(files[0])
            files.pop(0).unlink(missing_ok=True)
        number = number_of(files[-1]) + 1 if files else 1
        return self.directory / f"{self._prefix}-{number:0{NUMBER_DIGITS}d}.ndjson"

    def _files(self) -> list[Path]:
        # Digits only: the prefix `w0` must not take the files of `w0-file` for its own.
        return sorted(self.directory.glob(f"{self._prefix}-{'[0-9]' * NUMBER_DIGITS}.ndjson"))


def number_of(path: Path) -> int:
    """Return the number in a file's name."""
    return int(path.stem.rpartition("-")[2])


def _size(path: Path) -> int:
    version = file_version(path)
    return version[1] if version else 0


def whole_bytes(fd: int) -> int:
    """Return where the last line ends, read from the end in pieces."""
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(end - TAIL_BYTES, 0)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
