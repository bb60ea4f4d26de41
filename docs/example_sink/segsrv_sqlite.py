"""A sink of segsrv that keeps events in an SQLite database, each exactly once: `sqlite:PATH`."""

import asyncio
import hmac
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from segsrv.errors import SettingsError, SinkMisconfigured, SinkRejected, SinkUnavailable
from segsrv.sinks import Batch, Kind, Placement, SinkSpec

BATCHES_KEPT = 10_000
ADD = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)"
FORGET = "DELETE FROM batches WHERE number <= last_insert_rowid() - ?"
TABLES = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS batches (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
    CREATE TABLE IF NOT EXISTS events
        (event_id TEXT, type TEXT, key_id TEXT, received_ms INTEGER, event TEXT, hmac TEXT);
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    busy_timeout_s: float = 5.0


class SqliteSink:
    def __init__(self, spec: SinkSpec) -> None:
        self._path = Path(place(spec))
        self._busy_timeout_s = spec.options.busy_timeout_s
        self._file_mode = int(spec.settings.file_mode, 8)
        self._key = spec.secrets.get("signing_key", "").encode()
        self._db: sqlite3.Connection | None = None
        # One thread: a call that went on after its time-out ends before the next one begins.
        self._thread = ThreadPoolExecutor(1)

    async def check(self) -> None:
        there = self._path if self._path.exists() else self._path.parent
        if not os.access(there, os.W_OK):
            raise SinkUnavailable(f"{there} can't be written")

    async def open(self) -> None:
        await self._run(self._open)

    async def plan(self, _batch: Batch, _last: Placement) -> Placement:
        return {}  # The batch's id is enough to know whether it is there.

    async def send(self, batch: Batch, _placement: Placement) -> None:
        await self._run(lambda: self._store(batch))

    async def close(self) -> None:
        if self._db is not None:
            await self._run(self._db.close)
        self._thread.shutdown(wait=False)

    def describe(self) -> str:
        return f"sqlite:{self._path}"

    async def _run(self, work: Callable[[], None]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (OSError, sqlite3.OperationalError) as error:
            # Locked, a full disk, no such folder: it may pass.
            raise SinkUnavailable(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            # Such as a file that is no database.
            raise SinkMisconfigured(f"{self._path}: {error}") from error

    def _open(self) -> None:
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, self._file_mode))
        self._db = sqlite3.connect(self._path, timeout=self._busy_timeout_s)
        self._db.executescript(TABLES)

    def _store(self, batch: Batch) -> None:
        assert self._db is not None, "opened before the first batch"
        # One transaction: either the events and their batch's id are there, or none of them.
        with self._db as db:
            new = db.execute("INSERT OR IGNORE INTO batches (id) VALUES (?)", [batch.id])
            if new.rowcount == 0:
                return
            db.execute(FORGET, [BATCHES_KEPT])
            for index, (line, facts) in enumerate(zip(batch.lines(), batch.facts, strict=True)):
                event = line[:-1]
                seal = hmac.digest(self._key, event, "sha256").hex() if self._key else None
                known = (facts.event_id, facts.type, facts.key_id, facts.received_ms)
                try:
                    db.execute(ADD, (*known, event.decode(), seal))
                except sqlite3.IntegrityError as error:
                    # A rule that the operator gave the table; it will never let this event in.
                    raise SinkRejected(f"{self._path}: {error}", indexes=[index]) from error


def place(spec: SinkSpec) -> str:
    path = spec.url.removeprefix("sqlite:")
    if not path:
        raise SettingsError(f"{spec.where}: expected sqlite:PATH")
    return os.path.realpath(path)


SQLITE = Kind(
    schemes=("sqlite",), place=place, make=SqliteSink, options=Options, secrets=("signing_key",)
)
