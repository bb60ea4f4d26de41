"""Pieces of a journal that are no frames, kept in files beside the segment that they were in."""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
from pathlib import Path

from segsrv.files import FILE_MODE, open_file, write_all

logger = logging.getLogger(__name__)

BYTES_MAX = 64 << 20
KNOWN_MAX = 10_000
SAME_OFFSET_MAX = 100
_NAME = re.compile(r"[0-9]{20}\.(segment|journal)\.(damaged|torn)-[0-9]+(\.[0-9]+)?")


class Aside:
    """Keeps, counts and logs each piece once, also when several readers come across it.

    The files of a folder take at most *bytes_max*; the oldest go first, and of a larger piece the
    beginning is kept. Without *is_kept* pieces are counted and logged only.
    """

    def __init__(
        self,
        directory: Path,
        *,
        file_mode: int = FILE_MODE,
        bytes_max: int = BYTES_MAX,
        is_kept: bool = True,
    ) -> None:
        self.damaged_frames = 0
        self.torn_tails = 0
        self._directory = directory
        self._file_mode = file_mode
        self._bytes_max = bytes_max
        self._is_kept = is_kept
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def keep(
        self, segment: Path, offset: int, data: bytes | memoryview, *, is_torn: bool = False
    ) -> bool:
        """Keep *data*, found at *offset* of *segment*; return whether a file holds it now.

        False also for what this object was asked before.
        """
        name = f"{segment.name}.{'torn' if is_torn else 'damaged'}-{offset}"
        if not self._is_new(name):
            return False
        path, is_there = self._place(name, memoryview(data)[: self._bytes_max])
        if is_there:
            return True
        if is_torn:
            self.torn_tails += 1
        else:
            self.damaged_frames += 1
        try:
            if self._is_kept:
                self._write(path, memoryview(data)[: self._bytes_max])
        except OSError as error:
            logger.error(  # noqa: TRY400
                "journal: %s can't be kept: %s file=%s offset=%d bytes=%d",
                "an unfinished commit" if is_torn else "damage",
                error,
                segment.name,
                offset,
                len(data),
            )
            return False
        if is_torn:
            logger.warning(
                "journal: cut off an unfinished commit file=%s bytes=%d", name, len(data)
            )
        else:
            logger.error("journal: damaged bytes set aside file=%s bytes=%d", name, len(data))
        return self._is_kept

    def miss(self, name: str, position: int, size: int) -> None:
        """Count and log bytes from *position* on that are gone; *name* is where they should be."""
        if self._is_new(f"missing-{position}"):
            self.damaged_frames += 1
            logger.error(
                "journal: a file was removed file=%s position=%d bytes=%d", name, position, size
            )

    def expect(self, position: int) -> None:
        """Say that bytes missing from *position* on are counted already."""
        self._is_new(f"missing-{position}")

    def _place(self, name: str, data: memoryview) -> tuple[Path, bool]:
        """Return where *data* goes, and whether an earlier start has kept it there."""
        path = self._directory / name
        for number in range(1, SAME_OFFSET_MAX):
            if not os.path.lexists(path):
                return path, False
            if _holds(path, data):
                return path, True
            path = self._directory / f"{name}.{number}"
        return path, False

    def _is_new(self, name: str) -> bool:
        with self._lock:
            if name in self._known or len(self._known) >= KNOWN_MAX:
                return False
            self._known.add(name)
            return True

    def _write(self, path: Path, data: memoryview) -> None:
        self._make_room(len(data))
        fd = open_file(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, self._file_mode)
        try:
            write_all(fd, [data])
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def _make_room(self, size: int) -> None:
        with os.scandir(self._directory) as entries:
            kept = [
                (entry.stat(follow_symlinks=False), entry.path)
                for entry in entries
                if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            ]
        kept.sort(key=lambda pair: (pair[0].st_mtime_ns, pair[1]))
        total = sum(info.st_size for info, _path in kept)
        for info, path in kept:
            if total + size <= self._bytes_max:
                return
            Path(path).unlink(missing_ok=True)
            total -= info.st_size


def _holds(path: Path, data: memoryview) -> bool:
    try:
        info = path.lstat()
        # Nothing else is opened: a pipe would never answer.
        is_alike = stat.S_ISREG(info.st_mode) and info.st_size == len(data)
        return is_alike and path.read_bytes() == data
    except OSError:
        return False
