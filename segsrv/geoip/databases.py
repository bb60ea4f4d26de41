"""Opens MaxMind databases and follows their replacement on disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import maxminddb

from segsrv.errors import SettingsError
from segsrv.events.geo import Geo
from segsrv.files import FILE_MODE, Version, file_version, make_dir

logger = logging.getLogger(__name__)

COPIED_BYTES = 1 << 20
COPY_MODE = 0o600
_COPY_NAME = re.compile(r"geoip-[a-z0-9_]{8}\.mmdb")


class Databases:
    """The opened databases of *paths*; `geo` answers look-ups from the newest that could be read.

    Each file is copied before it is mapped into memory: a file that is overwritten in place would
    otherwise be cut off below the reader, which ends the process. The copy has no name from before
    its first byte on and lives as long as its reader, so that a process that is killed leaves none
    behind. Those that earlier releases left in *copy_dir* are removed. With no *copy_dir* copies go
    to the system's temporary folder.

    Raises:
        SettingsError: A file can't be opened as a database.

    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        entries_max: int,
        copy_dir: Path | None,
        file_mode: int = FILE_MODE,
    ) -> None:
        self.paths = tuple(paths)
        self.reloads = 0
        self._entries_max = entries_max
        self._copy_dir = copy_dir
        self._file_mode = file_mode
        self._retired_hits = self._retired_misses = 0
        self._refused: dict[Path, Version] = {}
        self._sweep()
        self._versions = [file_version(path) for path in self.paths]
        self._readers = [self._open(path) for path in self.paths]
        self.geo = Geo(self._readers, entries_max=entries_max)

    @property
    def hits(self) -> int:
        return self._retired_hits + self.geo.hits

    @property
    def misses(self) -> int:
        return self._retired_misses + self.geo.misses

    async def watch(self, interval_s: float, on_reload: Callable[[], None]) -> None:
        """Look for replaced files for ever; opening happens in a thread, the swap on the loop."""
        while True:
            await asyncio.sleep(interval_s)
            for index, path in enumerate(self.paths):
                if await asyncio.to_thread(self._reload, index, path):
                    self._swap()
                    on_reload()

    def _reload(self, index: int, path: Path) -> bool:
        """Open *path* again if it is another file than before; keep the old one if that fails."""
        version = file_version(path)
        if version is None or version == self._versions[index]:
            return False
        try:
            self._readers[index] = self._open(path)
        except SettingsError as error:
            # It may be half written, or the copy found no room; the next look tries again.
            if self._refused.get(path) != version:
                logger.warning("geoip: replacement not readable, the old one stays: %s", error)
            self._refused[path] = version
            return False
        self._versions[index] = version
        logger.info("geoip: database replaced file=%s", path)
        return True

    def _swap(self) -> None:
        self._retired_hits += self.geo.hits
        self._retired_misses += self.geo.misses
        self.reloads += 1
        self.geo = Geo(self._readers, entries_max=self._entries_max)

    def _open(self, path: Path) -> maxminddb.Reader:
        try:
            if self._copy_dir is not None:
                make_dir(self._copy_dir, self._file_mode)
            fd, name = tempfile.mkstemp(prefix="geoip-", suffix=".mmdb", dir=self._copy_dir)
            with os.fdopen(fd, "wb") as copy:
                # Another worker that starts may have swept it.
                Path(name).unlink(missing_ok=True)
                with path.open("rb") as original:
                    shutil.copyfileobj(original, copy, COPIED_BYTES)
                copy.flush()
                return maxminddb.open_database(f"/proc/self/fd/{fd}", maxminddb.MODE_AUTO)
        except (maxminddb.InvalidDatabaseError, OSError, ValueError) as error:
            raise _unreadable(path, error) from error

    def _sweep(self) -> None:
        """Remove copies that nobody will: of a process that was killed while it made them.

        A copy of a process that lives has no name, or needs none.
        """
        if self._copy_dir is None:
            return
        kept = {path.absolute() for path in self.paths}
        with contextlib.suppress(OSError):
            for path in self._copy_dir.absolute().iterdir():
                is_copy = _COPY_NAME.fullmatch(path.name) and path not in kept
                if is_copy and stat.S_IMODE(path.lstat().st_mode) == COPY_MODE:
                    path.unlink(missing_ok=True)
                    logger.info("geoip: removed a copy that was left behind file=%s", path.name)


def describe(paths: Sequence[Path]) -> list[str]:
    """Return a line for each database, its type and its path; none is copied.

    Raises:
        SettingsError: A file can't be opened as a database.

    """
    lines = []
    for path in paths:
        try:
            with maxminddb.open_database(path, maxminddb.MODE_FILE) as reader:
                lines.append(f"{reader.metadata().database_type} ({path})")
        except (maxminddb.InvalidDatabaseError, OSError, ValueError) as error:
            raise _unreadable(path, error) from error
    return lines


def _unreadable(path: Path, error: Exception) -> SettingsError:
    reason: object = error
    if isinstance(error, maxminddb.InvalidDatabaseError):
        reason = "is no MaxMind database"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return SettingsError(f"geoip_db={path}: {reason}")
