"""Opening the journals of a data directory: a worker's own, and those that nobody writes."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from segsrv.delivery import cursor as cursors
from segsrv.delivery.origin import open_origin
from segsrv.delivery.source import LeftSource
from segsrv.errors import JournalFault
from segsrv.files import make_dir, obstacle, set_dir_mode
from segsrv.journal import lock, segments
from segsrv.journal.log import SegmentLog
from segsrv.settings import Settings
from segsrv.sinks.registry import resolve

logger = logging.getLogger(__name__)

_NAME = re.compile(r"w\d{1,6}")
LOCK = "delivery.lock"
ORIGIN = "origin"
FOLDERS = ("journal", "dead-letter", "events", "state", "set-aside")
"""What the data directory holds; it may itself be somebody else's folder."""


def journal_dir(settings: Settings) -> Path:
    """Return the folder of all workers' journals, which a server makes when it first starts."""
    return settings.data_dir / "journal"


def folders(settings: Settings) -> list[Path]:
    """Return the folders of all journals, in the order of the workers.

    Raises:
        OSError: They can't be listed.

    """
    root = journal_dir(settings)
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[1:]))


def cursor_dir(settings: Settings) -> Path:
    """Return the folder of the sinks' cursors."""
    return settings.data_dir / "state" / "sinks"


def journal_name(worker: int) -> str:
    return f"w{worker}"


def cursor_path(settings: Settings, cursor_name: str, owner: str = "") -> Path:
    """Return the cursor's file of a sink; *owner* as `Delivery` has it."""
    name = f"{cursor_name}@{owner}" if owner else cursor_name
    return cursor_dir(settings) / f"{name}{cursors.SUFFIX}"


def origin(settings: Settings, owner: str = "") -> str:
    """Return the data directory's id for sinks; *owner* as `Delivery` has it.

    The delivery's lock is held: nobody else makes one.

    Raises:
        OSError: The disk refused to read.

    """
    path = settings.data_dir / "state" / (f"{ORIGIN}@{owner}" if owner else ORIGIN)
    return open_origin(path, int(settings.file_mode, 8))


def take_delivery_lock(settings: Settings, *, is_shared: bool = False) -> tuple[int, Path]:
    """Return the open file that makes its holder the one who delivers, and where it stands.

    What delivers in a process of its own may outlive the workers, and its journals' locks with
    them. Applications that are mounted in several processes share it: each has a cursor of its own.

    Raises:
        DataDirInUse: Another server still delivers.
        OSError: The file can't be made.

    """
    path = settings.data_dir / "state" / LOCK
    file_mode = int(settings.file_mode, 8)
    make_dir(path.parent, file_mode)
    return lock.take(path, file_mode, is_shared=is_shared), path


def delivered(settings: Settings, log: SegmentLog, owner: str = "") -> int:
    """Return the position below which every configured sink has what a journal held.

    What was delivered before the last stop must not take room from new events.

    Raises:
        OSError: The disk refused to read.
        SettingsError: A sink's URL is wrong.

    """
    name = log.directory.name
    return min(
        cursors.floor(cursor_path(settings, sink.cursor_name, owner), name, log.id)
        for sink in resolve(settings)
    )


def left_behind(settings: Settings) -> list[int]:
    """Return the numbers of journals that no worker writes any more, as there are fewer now."""
    root = journal_dir(settings)
    present = [
        int(path.name[1:])
        for path in root.glob("w*")
        if path.name[1:].isdecimal() and path.is_dir()
    ]
    return sorted(number for number in present if number >= settings.workers)


def open_log(settings: Settings, number: int) -> SegmentLog:
    """Open a journal at a position that no cursor is beyond, a removed sink's included.

    Raises:
        DataDirInUse: Another process has it open.
        JournalFault: A cursor could not be written.
        OSError: A directory or file can't be made, read or written.

    """
    file_mode = int(settings.file_mode, 8)
    folder = cursor_dir(settings)
    make_dir(folder, file_mode)
    if blocked := obstacle(folder):
        raise JournalFault(f"the data directory can't be used: {blocked} can't be written")
    directory = journal_dir(settings) / journal_name(number)
    return SegmentLog(
        directory,
        segment_bytes_max=settings.journal_segment_bytes_max,
        disk_free_bytes_min=settings.disk_free_bytes_min,
        is_synced=settings.durability == "fsync",
        position_min=max(_positions(folder, directory), default=0),
        file_mode=file_mode,
    )


def open_left(settings: Settings, number: int) -> LeftSource:
    """Open a journal that nobody writes any more; raises as `open_log`."""
    log = open_log(settings, number)
    return LeftSource(journal_name(number), log, retention_s=settings.journal_retention_s)


def set_modes(settings: Settings) -> None:
    """Open or close the folders that an earlier start made, and so all that lies in them."""
    for name in FOLDERS:
        folder = settings.data_dir / name
        if folder.is_symlink() or not folder.exists():
            continue
        try:
            set_dir_mode(folder, int(settings.file_mode, 8))
        except OSError as error:
            logger.warning("data_dir: the mode of a folder can't be set: %s", error)


def _positions(folder: Path, directory: Path) -> Iterator[int]:
    """Yield how far sinks know the journal in *directory*."""
    journal_id = (
        segments.journal_id(segments.find(directory).segments) if directory.exists() else None
    )
    for path in folder.glob(f"*{cursors.SUFFIX}"):
        for cursor in cursors.read(path)[:2]:
            span = cursor.spans.get(directory.name) if cursor else None
            if span is not None and span.journal_id == journal_id:
                yield span.end.position + bool(span.end.skip)
    for path in folder.parent.glob(f"{directory.name}-*.json"):
        try:
            end = json.loads(path.read_bytes())["end"]
        except (OSError, ValueError, LookupError, TypeError):
            # Whoever needs it says so.
            continue
        if isinstance(end, int):
            yield end
