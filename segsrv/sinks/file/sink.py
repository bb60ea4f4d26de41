"""One JSON object a line, in files by day or hour: `<root>/2026-11-23/140509.123456-<mark>.ndjson`.

`names.py` says what is in a name, and how a closed file is told. A closed file is never written to.

Delivery appends by `writer.py`, and closes a file when no cursor will ask for what is in it.
Commands plan and send batches one by one, and so did delivery in earlier releases: then a file is
closed when a batch goes to a later one, or when its day or hour is over and the last batch is
stored. A batch that is sent again after that, because the cursor was older than the file, is found
in it, whatever it is now, and isn't stored twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeVar

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
from segsrv.sinks.file.compression import has_lines
from segsrv.sinks.file.names import (
    MARK_BYTES,
    SUFFIX,
    FileName,
    Rotation,
    can_go_on,
    is_writable,
    period_end,
)
from segsrv.sinks.file.open_files import OpenFiles
from segsrv.sinks.file.upkeep import FileStats, Upkeep
from segsrv.sinks.file.writer import FileWriter

logger = logging.getLogger(__name__)

FILE_BYTES_MAX = 256 << 20

Compression = Literal["none", "gzip", "zstd", "parquet"]
T = TypeVar("T")


def root_of(url: str, settings: Settings) -> Path:
    """Return the folder that `file:PATH` names; without a path, `events/` of the data directory."""
    path = url.removeprefix("file:")
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    return Path(path) if path else settings.data_dir / "events"


class FileSink:
    """Appends batches to files under *root*; a file ends with its UTC day or hour, or its size.

    `writer` is how delivery does it. For `plan` and `send`, a placement is `{"file", "offset",
    "bytes"}`. Sending cuts the file at the offset first, so that a batch that was half written
    before a crash is written once. If the journal has lost a part of the batch since it was
    planned, and the file has it whole, the file is left as it is.

    A writer that is there `is_once` closes its files when it ends, and leaves what the sink does
    beside writing to the server.
    """

    def __init__(
        self,
        root: Path,
        *,
        name: str = "",
        file_bytes_max: int = FILE_BYTES_MAX,
        file_rotate: Rotation = "day",
        file_compress: Compression = "none",
        file_retention_s: float = 0.0,
        file_total_bytes_max: int = 0,
        file_mode: int = FILE_MODE,
        is_once: bool = False,
    ) -> None:
        self.root = root
        self.name = name or f"file:{root}"
        self.stats = FileStats()
        self._file_bytes_max = file_bytes_max
        self._rotation = file_rotate
        self._file_mode = file_mode
        self._is_once = is_once
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segsrv-file-sink")
        self._upkeep = Upkeep(
            self.name,
            root,
            self.stats,
            self._close_if_over,
            method=None if file_compress == "none" else file_compress,
            retention_s=file_retention_s,
            total_bytes_max=file_total_bytes_max,
        )
        # The lock is for what follows it: files of this writer that are not closed, and the batch
        # that is planned but perhaps not stored. While it is, none of them is closed by the clock.
        self._busy = threading.Lock()
        self._in_flight: Placement | None = None
        self.files = OpenFiles(self.name, root, file_rotate, self._upkeep.file_closed)
        self.writer = FileWriter(
            root,
            self.files,
            self._busy,
            file_bytes_max=file_bytes_max,
            rotation=file_rotate,
            file_mode=file_mode,
        )

    async def check(self) -> None:
        if blocked := obstacle(self.root):
            raise SinkUnavailable(
                f"sink=file:{self.root}: {blocked} is not a folder that can be written"
            )

    async def open(self) -> None:
        await self._run(lambda: make_dir(self.root, self._file_mode))
        if not self._is_once:
            self._upkeep.start()

    async def plan(self, batch: Batch, last: Placement) -> Placement:
        return await self._run(lambda: self._plan(batch, last, datetime.now(UTC)))

    async def send(self, batch: Batch, placement: Placement) -> None:
        await self._run(lambda: self._send(batch, placement))

    async def close(self) -> None:
        """End both threads; the file stays open, since a restart goes on with it."""
        if self._is_once:
            # A file that the disk keeps from being cut stays open: it may end within a line.
            with contextlib.suppress(SinkUnavailable):
                await self._run(self._finish)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self.writer.close)
        await loop.run_in_executor(None, self._upkeep.stop)
        await loop.run_in_executor(None, self._thread.shutdown)

    def describe(self) -> str:
        return f"file:{self.root}"

    async def _run(self, work: Callable[[], T]) -> T:
        def alone() -> T:
            with self._busy:
                return work()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, alone)
        except OSError as error:
            raise SinkUnavailable(f"{self.root}: {error.strerror or error}") from error

    def _plan(self, batch: Batch, last: Placement, now: datetime) -> Placement:
        was = FileName.parse(last["file"]) if last else None
        if last and last == self._in_flight:
            self._take_back(last)
        if was is not None:
            self.files.learn(was.mark)
            if was.began.date() == now.date():
                # The clock may have been set back; a day's names are in order all the same.
                now = max(now, was.began + timedelta(microseconds=1))
        mark = was.mark if was else secrets.token_hex(MARK_BYTES)
        placement = {"file": str(FileName(now, mark)), "offset": 0, "bytes": batch.size}
        if was is not None and was.began < now < period_end(was.began, self._rotation):
            offset = last["offset"] + last["bytes"]
            if offset < self._file_bytes_max and can_go_on(self.root / last["file"], offset):
                placement |= {"file": last["file"], "offset": offset}
        # A plan is only asked for when all before it is stored, or given up.
        self.files.close(self.files.names - {placement["file"]})
        self._in_flight = placement
        return placement

    def _send(self, batch: Batch, placement: Placement) -> None:
        if (name := FileName.parse(placement["file"])) is not None:
            self.files.learn(name.mark)
        self._in_flight = placement
        self._write(batch, placement)
        self._in_flight = None

    def _write(self, batch: Batch, placement: Placement) -> None:
        planned_bytes = placement["bytes"]
        path, offset = self.root / placement["file"], placement["offset"]
        while not is_writable(path, offset):
            # Closed, since the cursor is older than the file; or taken away by the operator after
            # the batch was planned. A file of the batch's own can be written again from its first
            # byte, which what is left of the other one can't.
            if has_lines(path, offset, planned_bytes):
                return
            path, offset = path.with_name(f"{path.stem}-{batch.id}{SUFFIX}"), 0
        self.files.names.add(str(path.relative_to(self.root)))
        if batch.size < planned_bytes and has_lines(path, offset, planned_bytes):
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
            if os.fstat(fd).st_nlink == 0:
                # Deleted since it was opened; what was written is gone with it.
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        finally:
            os.close(fd)
        if offset == 0:
            # Also when an earlier try made the file: it may have failed before this.
            sync_dir(path.parent)

    def _take_back(self, placement: Placement) -> None:
        """Cut off what a crash left of a batch that delivery has given up: it is kept elsewhere."""
        path, offset = self.root / placement["file"], placement["offset"]
        if can_go_on(path, offset):
            os.truncate(path, offset)

    def _finish(self) -> None:
        """Close all files; a batch that was not stored is not in them."""
        if self._in_flight is not None:
            self._take_back(self._in_flight)
        self.files.close(set(self.files.names))

    def _close_if_over(self) -> None:
        """Close the files whose day or hour is over, if nothing is on its way to them."""
        if not self._busy.acquire(blocking=False):
            return
        try:
            if self._in_flight is None and self.writer.is_settled:
                self.files.close(self.files.over(datetime.now(UTC)))
        finally:
            self._busy.release()
