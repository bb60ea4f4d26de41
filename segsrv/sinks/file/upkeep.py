"""What the file sink does beside writing, in a thread of its own: compress, and delete."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segsrv.errors import NotConverted
from segsrv.files import is_full
from segsrv.sinks.file import retention as file_retention
from segsrv.sinks.file.compression import complete, compress, drop_if_stale
from segsrv.sinks.file.names import (
    Found,
    Method,
    find,
    is_closed,
    method_of,
    replaced_name,
    replacing_names,
)

logger = logging.getLogger(__name__)

TICK_S = 1.0
SCAN_INTERVAL_S = 60.0
NICE = 10


@dataclass(slots=True)
class FileStats:
    """Plain counters of one file sink."""

    files_closed: int = 0
    files_compressed: int = 0
    files_not_converted: int = 0
    files_deleted: int = 0
    bytes_deleted: int = 0
    faults: int = 0


class Upkeep:
    """A thread that looks after closed files below *root*, from `start` to `stop`.

    It calls *on_tick* every TICK_S. Its priority is low, and it holds a piece of one file at a
    time, so delivery does not wait for it.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        stats: FileStats,
        on_tick: Callable[[], None],
        *,
        method: Method | None,
        retention_s: float,
        total_bytes_max: int,
    ) -> None:
        self._name = name
        self._root = root
        self._stats = stats
        self._on_tick = on_tick
        self._method = method
        self._retention_s = retention_s
        self._total_bytes_max = total_bytes_max
        self._is_stopping = threading.Event()
        # The first look, at once, finds what an earlier run left half done.
        self._scan_at_s = 0.0
        self._last_fault = ""
        self._not_converted: set[Path] = set()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="segsrv-file-upkeep", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End the thread; a file that is being compressed is left as it was."""
        self._is_stopping.set()
        if self._thread is not None:
            self._thread.join()

    def file_closed(self) -> None:
        """Take note that there is something to do, at the next tick."""
        self._stats.files_closed += 1
        self._scan_at_s = 0.0

    def _run(self) -> None:
        # On Linux, priorities belong to threads.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            try:
                self._on_tick()
                self._scan_if_due()
            except OSError as error:
                self._failed(error)
            except Exception:
                self._stats.faults += 1
                logger.exception("sink: unexpected error among its files sink=%s", self._name)
            if self._is_stopping.wait(TICK_S):
                return

    def _scan_if_due(self) -> None:
        now_s = time.monotonic()
        if now_s < self._scan_at_s:
            return
        has_limit = self._retention_s or self._total_bytes_max
        # Set before the look at the files: one that is closed meanwhile makes it due again.
        self._scan_at_s = now_s + SCAN_INTERVAL_S if has_limit else math.inf
        faults = self._stats.faults
        self._scan()
        if self._stats.faults == faults:
            self._last_fault = ""

    def _scan(self) -> None:
        files = list(find(self._root))
        gone = self._delete(files)
        self._not_converted &= {file.path for file in files}
        for file in files:
            if self._is_stopping.is_set():
                return
            try:
                if file.is_temporary:
                    drop_if_stale(file.path)
                elif file.path not in gone:
                    self._look_after(file)
            except OSError as error:
                self._failed(error)
                if is_full(error):
                    return

    def _look_after(self, file: Found) -> None:
        if not file.is_plain:
            if not is_closed(file.status) and not replaced_name(file.path).exists():
                # A crash came between the last two steps.
                complete(file.path)
        elif is_closed(file.status) and file.path not in self._not_converted:
            self._compress(file.path)

    def _compress(self, path: Path) -> None:
        method = self._method
        if method is None:
            # Compression was turned off after a crash between its last steps.
            beside = [name for name in replacing_names(path) if name.exists()]
            method = method_of(beside[0]) if beside else None
        if method is None:
            return
        try:
            if compress(path, method, self._is_stopping.is_set):
                self._stats.files_compressed += 1
        except NotConverted as error:
            # Until the next start: what is in it does not change.
            self._not_converted.add(path)
            self._stats.files_not_converted += 1
            logger.error(  # noqa: TRY400 - The file is at fault, not the code.
                "sink: a file stays NDJSON, it can't be Parquet sink=%s file=%s error=%s",
                self._name,
                path,
                error,
            )

    def _delete(self, files: list[Found]) -> set[Path]:
        chosen = file_retention.to_delete(
            files,
            time.time(),
            retention_s=self._retention_s,
            total_bytes_max=self._total_bytes_max,
        )
        gone: set[Path] = set()
        size = 0
        try:
            for file in file_retention.delete(chosen):
                gone.add(file.path)
                size += file.status.st_size
        except OSError as error:
            self._failed(error)
        self._stats.files_deleted += len(gone)
        self._stats.bytes_deleted += size
        if gone:
            logger.info(
                "sink: deleted what is past its retention sink=%s files=%d bytes=%d",
                self._name,
                len(gone),
                size,
            )
        return gone

    def _failed(self, error: OSError) -> None:
        """Count a fault, log it once, and look again after a while: the files are as they were."""
        self._stats.faults += 1
        self._scan_at_s = time.monotonic() + SCAN_INTERVAL_S
        text = str(error)
        if text != self._last_fault:
            self._last_fault = text
            logger.error(
                "sink: files can't be compressed or deleted, will try again sink=%s error=%s",
                self._name,
                text,
            )
