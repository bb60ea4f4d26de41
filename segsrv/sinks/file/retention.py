"""Which files of the file sink go when they are too old, or too many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from segsrv.sinks.file.names import Found, is_closed, is_day

ABANDONED_S = 2 * 86_400
"""A file that is not closed, but untouched for so long, has no writer any more.

One that has is closed by it within a day and a moment of its last event.
"""


def to_delete(
    files: Iterable[Found], now_s: float, *, retention_s: float, total_bytes_max: int
) -> list[Found]:
    """Return the files that are older than *retention_s* or that exceed *total_bytes_max*.

    The oldest go first; a file that may still be written to never does. 0 is no limit.
    """
    kept = sorted((file for file in files if not file.is_temporary), key=lambda file: file.path)
    total_bytes = sum(file.status.st_size for file in kept)
    chosen = []
    for file in kept:
        age_s = now_s - file.status.st_mtime
        if not is_closed(file.status) and age_s <= ABANDONED_S:
            continue
        is_old = 0 < retention_s < age_s
        is_beyond = 0 < total_bytes_max < total_bytes
        if is_old or is_beyond:
            chosen.append(file)
            total_bytes -= file.status.st_size
    return chosen


def delete(files: Sequence[Found]) -> Iterator[Found]:
    """Delete *files* and yield each that went; past days' folders that are empty then go too.

    Raises:
        OSError: One can't be deleted; those before it are.

    """
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            file.path.unlink()
            yield file
    for folder in {file.path.parent for file in files}:
        _drop_if_empty(folder)


def _drop_if_empty(folder: Path) -> None:
    """Remove a day's folder if nothing is in it; today's is about to be written to."""
    if is_day(folder) and folder.name < f"{datetime.now(UTC):%Y-%m-%d}":
        with contextlib.suppress(OSError):
            folder.rmdir()
