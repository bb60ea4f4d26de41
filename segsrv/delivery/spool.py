"""What transformations made of a batch, kept on disk until it is delivered.

A function may be another one at the next try, or answer otherwise, and a batch has to be the same
then. So it is written here before the cursor says that it is being sent, and read back when it is
to be sent again. A file is a line of JSON that names the batch, its events' facts, and their lines.
It is written over in place: once the files are as large as batches are, a full disk stops nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import orjson

from segsrv.files import FILE_MODE, make_dir, open_file, sync_dir, write_all_at
from segsrv.journal.crc import crc32
from segsrv.journal.facts import Facts
from segsrv.sinks.base import Batch

logger = logging.getLogger(__name__)

FILES = 3
"""Two slots of a cursor may name a batch each, while a third one is written."""
SUFFIX = ".spool"
HEAD_BYTES_MAX = 4_096
VERSION = 1


class Spool:
    """The batches of one sink's cursor called *name*; belongs to one thread at a time."""

    def __init__(self, folder: Path, name: str, file_mode: int = FILE_MODE) -> None:
        self._folder = folder
        self._file_mode = file_mode
        self._paths = [folder / f"{name}.{number}{SUFFIX}" for number in range(FILES)]
        self._held: dict[Path, str] | None = None

    def save(self, batch: Batch, needed: Collection[str]) -> None:
        """Put *batch* on stable storage; those of the ids *needed* stay.

        Raises:
            OSError: The disk refused.

        """
        if self._held is None:
            self._held = {path: _batch_id(path) for path in self._paths}
        # One that is damaged is made again, in its own place.
        same = [path for path in self._paths if self._held[path] == batch.id]
        free = [path for path in self._paths if self._held[path] not in needed]
        path = (same or free)[0]
        self._held[path] = ""
        facts = orjson.dumps([fact[:] for fact in batch.facts])
        crc = crc32(facts)
        for part in batch.parts:
            crc = crc32(part, crc)
        head = {
            "version": VERSION,
            "batch": batch.id,
            "facts_bytes": len(facts),
            "lines_bytes": batch.size,
            "crc": crc,
        }
        is_new = not path.exists()
        if is_new:
            make_dir(self._folder, self._file_mode)
        fd = open_file(path, os.O_CREAT | os.O_WRONLY, self._file_mode)
        try:
            write_all_at(fd, [orjson.dumps(head) + b"\n", facts, *batch.parts], 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        # Whoever made the file may have been killed before its name was safe.
        sync_dir(self._folder)
        self._held[path] = batch.id

    def load(self, batch_id: str) -> Batch | None:
        """Return the batch of this id, whichever sink's cursor it was written for; None if none is.

        Its `ends` are for the caller to say.

        Raises:
            OSError: The disk refused to read.

        """
        try:
            paths = [path for path in self._folder.iterdir() if path.suffix == SUFFIX]
        except FileNotFoundError:
            return None
        for path in sorted(paths):
            if _batch_id(path) == batch_id:
                batch = _read(path)
                if batch is not None:
                    return batch
                logger.error("transform: a kept batch is damaged file=%s", path.name)
        return None


def _batch_id(path: Path) -> str:
    """Return which batch a file says it has; empty if it says none."""
    try:
        with path.open("rb") as file:
            return str(_head(file.readline(HEAD_BYTES_MAX))["batch"])
    except (FileNotFoundError, ValueError, LookupError):
        return ""


def _head(line: bytes) -> dict[str, Any]:
    head = orjson.loads(line)
    if not isinstance(head, dict) or head.get("version") != VERSION:
        raise ValueError("no batch of this version")
    return head


def _read(path: Path) -> Batch | None:
    try:
        with path.open("rb") as file:
            head = _head(file.readline(HEAD_BYTES_MAX))
            encoded = file.read(head["facts_bytes"])
            lines = file.read(head["lines_bytes"])
        if crc32(lines, crc32(encoded)) != head["crc"]:
            return None
        facts = [Facts(*fact) for fact in orjson.loads(encoded)]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    return Batch(head["batch"], [lines], len(facts), lambda: facts)
