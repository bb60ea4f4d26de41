"""Items that can't be stored as events, kept with their reason; oldest files go first."""

from __future__ import annotations

import os
from pathlib import Path

from segsrv.errors import JournalFault
from segsrv.journal.files import make_dir, sync_dir, write_all

FILES = 16
NUMBER_DIGITS = 8


class DeadLetters:
    """Appends NDJSON lines to numbered files; the oldest goes when all take *bytes_max*.

    Belongs to one thread. Files are named `<prefix>-<number>.ndjson`.
    """

    def __init__(self, directory: Path, *, prefix: str, bytes_max: int) -> None:
        self.directory = directory
        self._prefix = prefix
        self._file_bytes_max = max(bytes_max // FILES, 1)

    def append(self, lines: list[bytes]) -> None:
        """Write *lines* and wait until they are on stable storage.

        Raises:
            JournalFault: The disk refused them.

        """
        try:
            make_dir(self.directory)
            path = self._current()
            is_new = not path.exists()
            fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
            try:
                size = os.fstat(fd).st_size
                try:
                    write_all(fd, [b"".join(lines)])
                    os.fdatasync(fd)
                except OSError:
                    os.ftruncate(fd, size)
                    raise
            finally:
                os.close(fd)
            if is_new:
                sync_dir(self.directory)
        except OSError as error:
            raise JournalFault(f"dead letters can't be written: {error.strerror}") from error

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
