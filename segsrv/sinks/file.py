"""One JSON object a line, in files by day: `<root>/2026-11-23/w0-<batch>-<mark>.ndjson`.

The mark is random: a file that another server, or this one before its journal was removed, wrote
for the same position is never taken for this one and cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from segsrv.errors import SinkUnavailable
from segsrv.files import (
    FILE_MODE,
    make_dir,
    obstacle,
    open_file,
    sync_dir,
    write_all,
)
from segsrv.settings import Settings
from segsrv.sinks.base import Batch, Placement

MARK_BYTES = 4

T = TypeVar("T")


def root_of(url: str, settings: Settings) -> Path:
    """Return the folder that `file:PATH` names; without a path, `events/` of the data directory."""
    path = url.removeprefix("file:")
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    return Path(path) if path else settings.data_dir / "events"


class FileSink:
    """Appends batches to files under *root*; a file ends with its UTC day or its size.

    A placement is `{"file", "offset", "bytes"}`. Sending cuts the file at the offset first, so that
    a batch that was half written before a crash is written once. If the journal has lost a part of
    the batch since it was planned, and the file has it whole, the file is left as it is.
    """

    def __init__(
        self, root: Path, *, worker: int, file_bytes_max: int, file_mode: int = FILE_MODE
    ) -> None:
        self.root = root
        self._worker = worker
        self._file_bytes_max = file_bytes_max
        self._file_mode = file_mode
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segsrv-file-sink")

    @classmethod
    def from_url(cls, url: str, settings: Settings, *, worker: int) -> FileSink:
        """Build from `file:PATH`, or `file:` for the default folder."""
        root = root_of(url, settings)
        return cls(
            root,
            worker=worker,
            file_bytes_max=settings.file_bytes_max,
            file_mode=int(settings.file_mode, 8),
        )

    async def check(self) -> None:
        if blocked := obstacle(self.root):
            raise SinkUnavailable(
                f"sink=file:{self.root}: {blocked} is not a folder that can be written"
            )

    async def open(self) -> None:
        await self._run(lambda: make_dir(self.root, self._file_mode))

    async def plan(self, batch: Batch, last: Placement) -> Placement:
        return await self._run(lambda: self._plan(batch, last, datetime.now(UTC)))

    async def send(self, batch: Batch, placement: Placement) -> None:
        await self._run(lambda: self._write(batch, placement))

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    def describe(self) -> str:
        return f"file:{self.root}"

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            raise SinkUnavailable(f"{self.root}: {error.strerror or error}") from error

    def _plan(self, batch: Batch, last: Placement, now: datetime) -> Placement:
        day = f"{now:%Y-%m-%d}"
        if last and last["file"].startswith(day + "/"):
            offset = last["offset"] + last["bytes"]
            path = self.root / last["file"]
            # A file that was moved away or emptied must not be continued behind a hole.
            is_there = path.exists() and path.stat().st_size >= offset
            if is_there and offset < self._file_bytes_max:
                return {"file": last["file"], "offset": offset, "bytes": batch.size}
        mark = secrets.token_hex(MARK_BYTES)
        name = f"{day}/w{self._worker}-{batch.id}-{mark}.ndjson"
        return {"file": name, "offset": 0, "bytes": batch.size}

    def _write(self, batch: Batch, placement: Placement) -> None:
        path, offset = self.root / placement["file"], placement["offset"]
        if offset and not (path.exists() and path.stat().st_size >= offset):
            # The operator took the file away after the batch was planned. A file of its own can be
            # written again from its first byte, which what is left of the other one can't.
            path, offset = path.with_name(f"{path.stem}-{batch.id}{path.suffix}"), 0
        planned_bytes = placement["bytes"]
        if batch.size < planned_bytes and _has_lines(path, offset, planned_bytes):
            return
        flags = os.O_WRONLY | os.O_APPEND
        if offset == 0:
            make_dir(path.parent, self._file_mode)
            # Else a file that is taken away just now would be made again with a hole for its start.
            flags |= os.O_CREAT
        fd = open_file(path, flags, self._file_mode)
        try:
            os.ftruncate(fd, offset)
            try:
                write_all(fd, batch.parts)
                os.fdatasync(fd)
            except OSError:
                # Readers of the file should not see half a line until the next try succeeds.
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, offset)
                raise
        finally:
            os.close(fd)
        if offset == 0:
            # Also when an earlier try made the file: it may have failed before this.
            sync_dir(path.parent)


def _has_lines(path: Path, offset: int, size: int) -> bool:
    """Say whether whole lines stand in all *size* bytes from *offset* on."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except FileNotFoundError:
        return False
    # A power cut may leave zeros where the data of a write was still to come.
    return len(data) == size and data.endswith(b"\n") and b"\0" not in data
