"""Files of one writer that are not closed yet, and how they are closed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from segsrv.sinks.file.names import WRITE_BITS, FileName, Rotation, period_end, with_mark

logger = logging.getLogger(__name__)


class OpenFiles:
    """Names below *root*; who calls holds the sink's lock. *on_closed* is told of each."""

    def __init__(
        self, sink: str, root: Path, rotation: Rotation, on_closed: Callable[[], None]
    ) -> None:
        self.names: set[str] = set()
        self._sink = sink
        self._root = root
        self._rotation = rotation
        self._on_closed = on_closed
        self._mark = ""

    def learn(self, mark: str) -> None:
        """Find this writer's files of before the start; only a placement says who it is."""
        if mark != self._mark:
            self.names |= set(with_mark(self._root, mark))
            self._mark = mark

    def over(self, now: datetime) -> set[str]:
        """Return those whose day or hour is over."""
        return {file for file in self.names if self._is_over(file, now)}

    def close(self, files: set[str]) -> None:
        """Take the write permission from *files*, which are complete."""
        for file in files:
            path = self._root / file
            try:
                path.chmod(path.stat().st_mode & 0o777 & ~WRITE_BITS)
            except FileNotFoundError:
                pass
            except OSError as error:
                logger.warning(
                    "sink: a file can't be closed sink=%s file=%s error=%s",
                    self._sink,
                    file,
                    error,
                )
            else:
                self._on_closed()
        self.names -= files

    def _is_over(self, file: str, now: datetime) -> bool:
        name = FileName.parse(file)
        return name is None or period_end(name.began, self._rotation) <= now
