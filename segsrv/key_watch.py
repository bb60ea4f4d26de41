"""Watches the files that keys are read from, and hands over new keys while the server runs.

Rules:
- Files are looked at every second, and at once when somebody asks. What has changed is read when
  it has stayed as it is for one more look: an editor may be writing it.
- A file that is wrong changes nothing, and that is said once.
- Only keys change. Other settings that are new in the file wait for a restart, which is said too.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from segsrv.errors import SegsrvError
from segsrv.files import Version, file_version
from segsrv.settings import Key, Settings
from segsrv.sinks.registry import resolve
from segsrv.write_keys import KeySource

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
LINES_MAX = 100
_CHANGING = frozenset(("keys", "write_key", "write_key_file"))
_Versions = tuple[Version | None, ...]


class KeyWatch:
    """Looks for new keys of *source*, for a server that runs with *settings*.

    *use* is called on the loop with all keys when they have changed. Of several processes one
    *tells* in the log what it found.
    """

    def __init__(
        self,
        settings: Settings,
        source: KeySource,
        use: Callable[[Sequence[Key]], None],
        *,
        tells: bool = True,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._settings = settings
        self._keys = settings.all_keys()
        self._source = source
        self._use = use
        self._tells = tells
        self._interval_s = interval_s
        self._asked = asyncio.Event()
        self._seen: _Versions | None = None
        self._read: _Versions | None = None
        self._told: set[str] = set()

    def ask(self) -> None:
        """Have the files read now, whether or not they look changed."""
        self._read = None
        self._asked.set()

    async def run(self) -> None:
        """Watch for ever."""
        # Another process may have started with what the files said a while ago.
        await self._look(is_now=True)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._interval_s)
            is_now = self._asked.is_set()
            self._asked.clear()
            await self._look(is_now=is_now)

    async def _look(self, *, is_now: bool) -> None:
        versions = await asyncio.to_thread(_versions, self._source.paths)
        is_steady, self._seen = versions == self._seen, versions
        if versions == self._read or not (is_steady or is_now):
            return
        self._read = versions
        try:
            settings = await asyncio.to_thread(self._load)
        except SegsrvError as error:
            self._tell(f"keys stay as they are: {error}")
            return
        for name in _changed(self._settings, settings):
            self._tell(f"{name} has changed, which needs a restart")
        keys = settings.all_keys()
        if keys != self._keys:
            self._keys = keys
            self._told.clear()
            self._use(keys)
            if self._tells:
                logger.info("keys have changed keys=%d", len(keys))

    def _load(self) -> Settings:
        settings = self._source.load()
        # Not those of the file: new sinks wait for a restart, and keys may name only what is there.
        resolve(dataclasses.replace(self._settings, write_key=(), keys=settings.all_keys()))
        return settings

    def _tell(self, line: str) -> None:
        if self._tells and line not in self._told:
            if len(self._told) >= LINES_MAX:
                self._told.clear()
            self._told.add(line)
            logger.error("settings: %s", line)


def _versions(paths: Sequence[Path]) -> _Versions:
    return tuple(map(file_version, paths))


def _changed(before: Settings, after: Settings) -> list[str]:
    names = [field.name for field in dataclasses.fields(Settings) if field.name not in _CHANGING]
    changed = [name for name in names if getattr(before, name) != getattr(after, name)]
    # With the port that was picked for it.
    return [name for name in changed if name != "ops_listen" or not after.ops_listen.endswith(":0")]
