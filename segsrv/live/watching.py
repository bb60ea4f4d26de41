"""All that a data directory tells, for one watcher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from segsrv.delivery.journals import folders
from segsrv.live.events import JournalFollower, shown
from segsrv.live.figures import Figures
from segsrv.live.letters import LettersFollower
from segsrv.live.reports import RefusalsFollower, Reports
from segsrv.live.wanted import Wanted
from segsrv.settings import Settings

POLL_S = 0.25
STATUS_INTERVAL_S = 1.0
FIRST_MAX = 100
SHOWN_MAX = 50
"""Items a turn; nobody reads faster, and the rest is counted."""

Item = dict[str, Any]


class Watcher:
    """Follows events, refusals and letters; belongs to one thread at a time."""

    def __init__(self, settings: Settings, wanted: Wanted) -> None:
        self.reports = Reports(settings.data_dir)
        self._settings = settings
        self._wanted = wanted
        self._journals: dict[Path, JournalFollower] = {}
        self._letters = LettersFollower(settings.data_dir / "dead-letter")
        self._refusals = RefusalsFollower()

    @property
    def is_running(self) -> bool:
        """Whether a server said lately that it is there."""
        return bool(self.reports.by_name)

    def turn(self, items_max: int) -> tuple[list[Item], int]:
        """Return what is new, the newest *items_max* of it in order, and how many more there were.

        Raises:
            OSError: A disk refused to read.

        """
        self.reports.read()
        found, left_out = self._events(items_max) if self._wants("event") else ([], 0)
        others = [*self._refusals.read(self.reports), *self._letters.read()]
        found += [item for item in others if self._is_wanted(item)]
        found.sort(key=lambda item: item["at_ms"])
        left_out += max(len(found) - items_max, 0)
        return found[len(found) - min(items_max, len(found)) :], left_out

    def _events(self, events_max: int) -> tuple[list[Item], int]:
        found: list[Item] = []
        left_out = 0
        for folder in folders(self._settings):
            follower = self._journals.setdefault(folder, JournalFollower(folder))
            followed = follower.read(max(events_max, 1))
            found += [item for each in followed.events if self._is_wanted(item := shown(each))]
            left_out += followed.passed_over
        return found, left_out

    def _wants(self, kind: str) -> bool:
        return not self._wanted.kinds or kind in self._wanted.kinds

    def _is_wanted(self, item: Item) -> bool:
        wanted = self._wanted
        if not self._wants(item["kind"]) or wanted.key not in ("", item.get("key")):
            return False
        if item["kind"] != "event":
            return True
        name = item["event"].get("event")
        return wanted.type in ("", item["type"]) and wanted.event in ("", name)


class Feed:
    """What there is to watch; nothing is read without a watcher."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def watch(self, wanted: Wanted) -> AsyncIterator[Item]:
        """Yield items that match *wanted*, for ever: what is there already, then as they come.

        Raises:
            OSError: A disk refused to read.

        """
        watcher, figures = Watcher(self._settings, wanted), Figures()
        items_max, status_due_s = FIRST_MAX, 0.0
        while True:
            items, left_out = await asyncio.to_thread(watcher.turn, items_max)
            if left_out and items_max == SHOWN_MAX:
                yield {"kind": "left_out", "items": left_out}
            for item in items:
                yield item
            items_max = SHOWN_MAX
            if time.monotonic() >= status_due_s and (not wanted.kinds or "status" in wanted.kinds):
                status_due_s = time.monotonic() + STATUS_INTERVAL_S
                yield figures.status(watcher.reports)
            await asyncio.sleep(POLL_S)
