"""Items that can't be stored as events, kept with their reason; oldest files go first."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

import orjson

from segsrv.errors import JournalFault, JournalFull
from segsrv.files import (
    FILE_MODE,
    file_version,
    is_full,
    make_dir,
    open_file,
    replace_file,
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

    Belongs to one thread. Files are named `<prefix>-<number>.ndjson`. An object without a `time`
    gets that of its writing. A file is locked while lines are appended. Where a command holds the
    lock to take letters out, the next file is begun: the server never waits for a command.
    `letters` counts the lines that were written.
    """

    def __init__(
        self, directory: Path, *, prefix: str, bytes_max: int, file_mode: int = FILE_MODE
    ) -> None:
        self.directory = directory
        self.letters = 0
        self._prefix = prefix
        self._bytes_max = bytes_max
        self._file_bytes_max = max(bytes_max // FILES, 1)
        self._file_mode = file_mode
        # The file that this process writes to, how many of its bytes are lines that were
        # acknowledged, and whether there may be more.
        self._path: Path | None = None
        self._size = 0
        self._has_failed = False
        self._named: Path | None = None
        """The file whose name is on stable storage."""

    def append(self, lines: list[bytes]) -> None:
        """Write *lines* and wait until they are on stable storage.

        Raises:
            JournalFull: The disk is full.
            JournalFault: The disk refused them; they are not there after a later success.

        """
        data = b"".join(map(_with_time, lines))
        try:
            if self._path is None or not self.directory.exists():
                make_dir(self.directory, self._file_mode)
            if self._path is None:
                self._mend_newest()
            fd, path = self._open()
            try:
                self._write(fd, path, data)
            finally:
                os.close(fd)
            self.letters += len(lines)
        except OSError as error:
            kind = JournalFull if is_full(error) else JournalFault
            raise kind(f"dead letters can't be written: {error.strerror}") from error

    def held_bytes(self) -> int:
        """Return how many bytes of letters there are; any thread may ask."""
        return sum(map(_bytes_of, self._files()))

    def _write(self, fd: int, path: Path, data: bytes) -> None:
        if os.fstat(fd).st_size == 0:
            self._named = None
        size = self._cut(fd, path)
        self._path, self._size, self._has_failed = path, size, True
        try:
            write_all(fd, [data])
            os.fdatasync(fd)
        except OSError:
            # Readers should not see half a line until the next try.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size)
            raise
        if path != self._named:
            sync_dir(self.directory)
            self._named = path
        self._size, self._has_failed = size + len(data), False

    def _cut(self, fd: int, path: Path) -> int:
        """Cut off what was never acknowledged, and return what is left."""
        present = os.fstat(fd).st_size
        is_ours = path == self._path and present >= self._size
        if is_ours and not self._has_failed and present == self._size:
            return present
        size = self._size if is_ours and self._has_failed else whole_bytes(fd)
        os.ftruncate(fd, size)
        # Else a power cut could leave a part of it between parts of the lines that follow.
        os.fdatasync(fd)
        return size

    def _open(self) -> tuple[int, Path]:
        """Open the newest file and lock it; begin the next where it is full or locked."""
        held: Path | None = None
        for _ in range(OPEN_TRIES):
            path = self._current(held)
            fd = open_file(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, self._file_mode)
            is_ready = False
            try:
                if not _is_locked(fd):
                    held = path
                elif os.fstat(fd).st_nlink:
                    # Else a command has put another file in its place since it was opened.
                    is_ready = True
                    return fd, path
            finally:
                if not is_ready:
                    os.close(fd)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def _mend_newest(self) -> None:
        """Remove what an earlier process left of lines, be the file continued or not.

        After a power cut the rest of such a line may read as zeros; what is whole behind it stays.
        """
        for path in self._files()[-1:]:
            fd = open_file(path, os.O_RDWR, self._file_mode)
            try:
                if not (_is_locked(fd) and os.fstat(fd).st_nlink):
                    # A command is at it, which keeps whole lines only.
                    continue
                data = path.read_bytes()
                if b"\0" in data:
                    lines = data.split(b"\n")[:-1]
                    whole = b"".join(line + b"\n" for line in lines if b"\0" not in line)
                    replace_file(path, whole, file_mode=self._file_mode)
                else:
                    self._cut(fd, path)
            finally:
                os.close(fd)

    def _current(self, held: Path | None) -> Path:
        """Return the file to append to, which is not *held*."""
        if self._has_failed and self._path is not None and self._path.exists():
            # It may hold what was refused.
            if self._path == held:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            return self._path
        files = self._files()
        if files and files[-1] != held and _bytes_of(files[-1]) < self._file_bytes_max:
            return files[-1]
        # Files that were begun early are small, so their number alone says little.
        total_bytes = sum(map(_bytes_of, files))
        while len(files) >= FILES and (
            total_bytes > self._bytes_max - self._file_bytes_max or len(files) >= FILES_MAX
        ):
            total_bytes -= _bytes_of(files[0])
            files.pop(0).unlink(missing_ok=True)
        number = number_of(files[-1]) + 1 if files else 1
        return self.directory / f"{self._prefix}-{number:0{NUMBER_DIGITS}d}.ndjson"

    def _files(self) -> list[Path]:
        # Digits only: the prefix `w0` must not take the files of `w0-file` for its own.
        return sorted(self.directory.glob(f"{self._prefix}-{'[0-9]' * NUMBER_DIGITS}.ndjson"))


def _is_locked(fd: int) -> bool:
    """Lock *fd*, unless somebody else has; return whether that worked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def number_of(path: Path) -> int:
    """Return the number in a file's name."""
    return int(path.stem.rpartition("-")[2])


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


def _bytes_of(path: Path) -> int:
    version = file_version(path)
    return version[1] if version else 0


def _with_time(line: bytes) -> bytes:
    if not line.startswith(b'{"'):
        return line
    if b'"time":' in line:
        with contextlib.suppress(orjson.JSONDecodeError):
            if "time" in orjson.loads(line):
                return line
    now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    return b'{"time":"%sZ",' % now.encode() + line[1:]
