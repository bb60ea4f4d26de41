"""What the processes of a server let each other know, so that any worker can speak for all."""

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
"""A process that has said nothing for so long is stuck, dead, or has a disk that takes nothing."""
READ_S_MAX = 0.3
"""So long reports are waited for; of a disk that hangs, those are used that were read last."""
DELIVERY = "delivery"
"""The name of the delivery process; a worker's is its number."""

Report = dict[str, Any]
"""What a process says of itself; plain data, for it crosses processes as JSON.

A worker's has `pid`, `ready`, `families`, `sinks` and `refused`, the delivery process's `families`
and `sinks`: a list of objects with `name`, `state`, `message`, `lag_events`, `lag_bytes`,
`lag_bytes_max`, `lag_s`, `events_per_s` and `eta_s`.
"""


class Peers:
    """Shares reports through one file a process in *folder*, which commands read, too.

    *name* is this process's: a worker's number, or DELIVERY.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        workers: int,
        has_delivery: bool = False,
        file_mode: int = FILE_MODE,
    ) -> None:
        self.name = name
        self.workers = tuple(map(str, range(workers)))
        self.has_delivery = has_delivery
        self._others = {*self.workers, *([DELIVERY] if has_delivery else [])} - {name}
        self._folder = folder
        self._file_mode = file_mode
        self._reading: asyncio.Task[dict[str, Report]] | None = None
        self._known: dict[str, Report] = {}

    async def publish(self, report: Callable[[], Awaitable[Report]]) -> None:
        """Write this process's report for the others, for ever."""
        while True:
            try:
                await asyncio.to_thread(self._write, await report())
            except OSError as error:
                # A full disk is reported where it matters; what is for other processes can wait.
                logger.debug("peers: a report can't be written: %s", error)
            await asyncio.sleep(PUBLISH_INTERVAL_S)

    async def others(self) -> dict[str, Report]:
        """Return the newest report of each other process that ever made one, with its `age_s`."""
        if not self._others:
            return {}
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(self._read))
        reading = self._reading
        await asyncio.wait([reading], timeout=READ_S_MAX)
        if reading.done():
            self._reading = None
            self._known = reading.result()
        # This clock is the same in all processes, and begins anew with the machine.
        now_s = time.monotonic()
        ages_s = {name: now_s - report["monotonic_s"] for name, report in self._known.items()}
        return {
            name: {**report, "age_s": ages_s[name] if ages_s[name] >= 0 else float("inf")}
            for name, report in self._known.items()
        }

    def _read(self) -> dict[str, Report]:
        found = {name: read_report(self._path(name)) for name in sorted(self._others)}
        return {name: report for name, report in found.items() if report is not None}

    def _write(self, report: Report) -> None:
        if not self._folder.exists():
            make_dir(self._folder, self._file_mode)
        data = json.dumps({**report, "monotonic_s": time.monotonic()}).encode()
        replace_file(self._path(self.name), data, file_mode=self._file_mode, is_synced=False)

    def _path(self, name: str) -> Path:
        return self._folder / (f"{name}.json" if name == DELIVERY else f"w{name}.json")


def read_report(path: Path) -> Report | None:
    """Return the report in a process's file; None if there is none."""
    try:
        report: Report = json.loads(path.read_bytes())
        report["monotonic_s"] = float(report["monotonic_s"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return report
