"""What the workers of a server let each other know, so that any of them can speak for all."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from segsrv.files import FILE_MODE, make_dir, replace_file

logger = logging.getLogger(__name__)

PUBLISH_INTERVAL_S = 1.0
SILENT_S = 5.0
"""A worker that has said nothing for so long is stuck, dead, or has a disk that takes nothing."""

Report = dict[str, Any]
"""What a worker says of itself; plain data, for it crosses processes as JSON."""


class Peers:
    """Shares reports through one file a worker in *folder*; with one worker it does nothing."""

    def __init__(
        self, folder: Path, *, worker: int, workers: int, file_mode: int = FILE_MODE
    ) -> None:
        self.worker = worker
        self.workers = workers
        self._folder = folder
        self._file_mode = file_mode

    async def publish(self, report: Callable[[], Awaitable[Report]]) -> None:
        """Write this worker's report for the others, for ever."""
        while self.workers > 1:
            try:
                await asyncio.to_thread(self._write, await report())
            except OSError as error:
                # A full disk is reported where it matters; what is for other workers can wait.
                logger.debug("peers: a report can't be written: %s", error)
            await asyncio.sleep(PUBLISH_INTERVAL_S)

    def others(self) -> dict[int, Report]:
        """Return the newest report of each other worker that ever made one, with its `age_s`."""
        found: dict[int, Report] = {}
        for number in range(self.workers):
            if number == self.worker:
                continue
            try:
                report = json.loads(self._path(number).read_bytes())
                # This clock is the same in all processes, and begins anew with the machine.
                age_s = time.monotonic() - report["monotonic_s"]
            except (OSError, ValueError, TypeError, KeyError):
                continue
            found[number] = {**report, "age_s": age_s if age_s >= 0 else float("inf")}
        return found

    def _write(self, report: Report) -> None:
        if not self._folder.exists():
            make_dir(self._folder, self._file_mode)
        data = json.dumps({**report, "monotonic_s": time.monotonic()}).encode()
        replace_file(self._path(self.worker), data, file_mode=self._file_mode, is_synced=False)

    def _path(self, worker: int) -> Path:
        return self._folder / f"w{worker}.json"
