"""The names of the file sink's files, and what a name and a mode say of one.

A file is `<day>/<time>-<mark>.ndjson`, for example `2026-11-23/140509.123456-1a2b3c4d.ndjson`: the
day and time (UTC) at which it was begun, and the mark of its writer, which is random and stays with
the writer's cursor over restarts. So two writers never share a file, and each one's files sort in
the order in which it wrote them. A batch whose file was taken away has a file of its own, named
after that one with the batch's id behind it.

A closed file may be replaced by one with the same events, whose name ends with one of REPLACING.

A file with no write permission is complete, and nobody writes to it again. No event is ever in two
of them: one that replaces another gets write permission, until the other one is gone for good.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

Rotation = Literal["day", "hour"]
Method = Literal["gzip", "zstd", "parquet"]

SUFFIX = ".ndjson"
REPLACING: dict[str, Method] = {
    f"{SUFFIX}.gz": "gzip",
    f"{SUFFIX}.zst": "zstd",
    ".parquet": "parquet",
}
TEMPORARY = ".tmp"
WRITE_BITS = 0o222
MARK_BYTES = 4

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NAME = re.compile(r"(\d{6}\.\d{6})-([0-9a-f]{8})(-[A-Za-z0-9._-]+)?", re.ASCII)
_EARLIER_NAME = re.compile(r"w\d+-[A-Za-z0-9._-]*\d{20}-[0-9a-f]{8}(-[A-Za-z0-9._-]+)?", re.ASCII)
"""What releases wrote that named a file after its worker and its first batch."""


@dataclass(frozen=True, slots=True)
class FileName:
    """When a file was begun, and by whom."""

    began: datetime
    mark: str

    @classmethod
    def parse(cls, text: str) -> FileName | None:
        """Return what `str` made *text* of; None for any other name."""
        day, _slash, name = text.partition("/")
        match = _NAME.fullmatch(name.removesuffix(SUFFIX))
        if match is None or match[3] or not name.endswith(SUFFIX):
            return None
        try:
            began = datetime.strptime(f"{day}/{match[1]}", "%Y-%m-%d/%H%M%S.%f")  # noqa: DTZ007
        except ValueError:
            return None
        return cls(began.replace(tzinfo=UTC), match[2])

    def __str__(self) -> str:
        return f"{self.began:%Y-%m-%d/%H%M%S.%f}-{self.mark}{SUFFIX}"


def period_end(moment: datetime, rotation: Rotation) -> datetime:
    """Return the end of the day or hour of *moment*."""
    start = moment.replace(minute=0, second=0, microsecond=0)
    if rotation == "hour":
        return start + timedelta(hours=1)
    return start.replace(hour=0) + timedelta(days=1)


def is_closed(status: os.stat_result) -> bool:
    """Say whether nobody writes to the file any more."""
    return not status.st_mode & WRITE_BITS


def replacing_names(path: Path) -> list[Path]:
    """Return the names that the file which replaces *path* may have."""
    return [path.with_name(path.name.removesuffix(SUFFIX) + end) for end in REPLACING]


def is_writable(path: Path, offset: int) -> bool:
    """Say whether a batch can be put at *offset* of *path*, or begin it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return offset == 0 and not any(name.exists() for name in replacing_names(path))
    return not is_closed(status) and status.st_size >= offset


def can_go_on(path: Path, offset: int) -> bool:
    """Say whether *path* is there; one moved or emptied must not be continued behind a hole."""
    return path.exists() and is_writable(path, offset)


def replaced_name(path: Path) -> Path:
    """Return the name of the file that *path* replaces."""
    end = next(end for end in REPLACING if path.name.endswith(end))
    return path.with_name(path.name.removesuffix(end) + SUFFIX)


def method_of(path: Path) -> Method | None:
    """Return how a file of this name holds its lines; None for as they are."""
    return next((REPLACING[end] for end in REPLACING if path.name.endswith(end)), None)


class Found(NamedTuple):
    """A file of segsrv's own naming, as it was when its folder was read."""

    path: Path
    status: os.stat_result

    @property
    def is_plain(self) -> bool:
        """Whether it has the lines as they are."""
        return self.path.suffix == SUFFIX

    @property
    def is_temporary(self) -> bool:
        return self.path.suffix == TEMPORARY


def find(root: Path) -> Iterator[Found]:
    """Yield all files below *root* whose names are segsrv's own, those of earlier releases too.

    Nothing else there is ever touched: no other name, no link, no folder that is no day's.
    """
    for day in sorted(_entries(root), key=lambda entry: entry.name):
        if _DAY.fullmatch(day.name) and day.is_dir(follow_symlinks=False):
            for entry in sorted(_entries(Path(day.path)), key=lambda entry: entry.name):
                if _is_own(entry.name) and entry.is_file(follow_symlinks=False):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield Found(Path(entry.path), status)


def with_mark(root: Path, mark: str, *, is_closed_too: bool = False) -> list[str]:
    """Return the files of the writer *mark* that are not closed, relative to *root*."""
    return [
        str(found.path.relative_to(root))
        for found in find(root)
        if found.is_plain
        and (is_closed_too or not is_closed(found.status))
        and (match := _NAME.fullmatch(found.path.stem)) is not None
        and match[2] == mark
    ]


def is_day(path: Path) -> bool:
    """Say whether *path* has the name of a day's folder."""
    return _DAY.fullmatch(path.name) is not None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_own(name: str) -> bool:
    replacing = name.removesuffix(TEMPORARY)
    end = next((end for end in REPLACING if replacing.endswith(end)), SUFFIX)
    stem = (name if end == SUFFIX else replacing).removesuffix(end)
    is_ours = stem != name and SUFFIX not in stem
    return is_ours and any(p.fullmatch(stem) for p in (_NAME, _EARLIER_NAME))
