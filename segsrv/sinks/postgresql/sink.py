"""Keeps events in a table of PostgreSQL, each exactly once.

A batch is one transaction: its lines go into a temporary table by COPY, become rows there, and
with them the batch's id is stored, under the data directory's id and the sink's name. A batch that
comes again is known by its id, whatever became of the first try: a transaction that is still open
holds the row of the position, and the next one waits for it.

A connection is given up after any failure but a refusal, since what it still does is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson

from segsrv.errors import SegsrvError, SinkMisconfigured, SinkRejected
from segsrv.journal.facts import Facts
from segsrv.sinks.base import Batch, Delivered, Placement
from segsrv.sinks.postgresql import sql, tables
from segsrv.sinks.postgresql.errors import (
    UNIQUE_VIOLATION,
    is_about_events,
    meaning,
    message_of,
    said,
    whose_fault,
)
from segsrv.sinks.postgresql.names import Name
from segsrv.sinks.postgresql.text import storable

QUOTE = b"\x01"
CHUNK_BYTES = 256 << 10
CLOSE_TIMEOUT_S = 2.0
CONNECTION_S_MAX = 3_600.0
"""No server can freeze the temporary table of a session, so one that stayed would in the end keep
a busy server from going on: all of a cluster's transactions are counted against it."""
SEARCH_SHARE = 0.6
"""Which part of the time for a call is over when the search for what is refused ends.

It begins if half of that is left, and has to copy the lines once more.
"""
_COPY_LINE = re.compile(rf"COPY {sql.LINES}, line (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the database is, and who asks; `host` is a folder for a Unix socket."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str


@dataclass(slots=True)
class PostgresqlStats:
    """Plain counters of one sink."""

    connections: int = 0
    stored_before: int = 0
    """Batches that came again and were there."""
    replaced_characters: int = 0


class PostgresqlSink:
    """Belongs to one event loop; see the module.

    *origin* is the id of the data directory, empty for a command. *tls* is an SSL mode's name or
    what it comes to, *timeout_s* the time that a call has.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str,
        origin: str,
        table: Name,
        positions: Name,
        may_create: bool,
        tls: str | ssl.SSLContext,
        timeout_s: float,
    ) -> None:
        self.stats = PostgresqlStats()
        self._address = address
        self._is_once = not origin
        self._origin = origin or sql.RUN + secrets.token_hex(16)
        self._name = name
        self._table = table
        self._positions = positions
        self._may_create = may_create
        self._tls = tls
        self._timeout_s = timeout_s
        self._begin = sql.begin(timeout_s)
        self._insert = sql.insert(table, positions)
        self._destination = ""
        self._connection: Any = None
        self._connected_at = 0.0

    async def check(self) -> list[str]:
        async with self._translated():
            connection = await self._connect()
            try:
                return await tables.check(connection, *self._tables, **self._how)
            finally:
                connection.terminate()

    async def open(self) -> None:
        async with self._connected() as connection:
            if self._is_once:
                await self._forget(connection, sql.forget(self._positions)[1])

    async def delivered(self) -> Delivered:
        """Return what is stored of this data directory's events, by the sink of this name."""
        if self._is_once:
            return Delivered("", {})
        async with self._connected() as connection, tables.transaction(connection):
            row = await connection.fetchrow(sql.position(self._positions), *self._key)
        if row is None:
            return Delivered("", {})
        ends = {name: (end[0], end[1]) for name, end in orjson.loads(row["ends"]).items()}
        return Delivered(row["batch_id"], ends)

    async def plan(self, _batch: Batch, _last: Placement) -> Placement:
        return {}

    async def send(self, batch: Batch, _placement: Placement) -> None:
        if QUOTE in batch.content:
            raise _not_json(batch, self._where)
        lines, replaced = storable(batch.content)
        facts = _columns_of(batch.facts)
        started_at = time.monotonic()
        async with self._connected() as connection:
            try:
                stored = await self._store(connection, batch, lines, facts)
            except asyncpg.PostgresError as error:
                if not is_about_events(error, tuple(sql.COLUMN_TYPES)):
                    raise
                # The server's word: the transaction is void, and nothing of the batch is there.
                await connection.execute("ROLLBACK")
                raise await self._refusal(connection, lines, facts, error, started_at) from error
        if stored:
            self.stats.replaced_characters += replaced
        else:
            self.stats.stored_before += 1

    async def close(self) -> None:
        await self._disconnect(is_last=True)

    async def _disconnect(self, *, is_last: bool = False) -> None:
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        try:
            with contextlib.suppress(TimeoutError, OSError, *_OF_DRIVER):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    if self._is_once and is_last:
                        await self._forget(connection, sql.forget(self._positions)[0], self._origin)
                    await connection.close()
        finally:
            connection.terminate()

    def describe(self) -> str:
        where = self._address
        host = f"[{where.host}]" if ":" in where.host else where.host
        return f"postgresql://{host}:{where.port}/{where.database} table {self._table.quoted}"

    @property
    def _tables(self) -> tuple[Name, Name]:
        return self._table, self._positions

    @property
    def _how(self) -> dict[str, Any]:
        return {"may_create": self._may_create, "where": self._where}

    @property
    def _key(self) -> tuple[str, str, str]:
        return self._origin, self._name, self._destination

    @property
    def _where(self) -> str:
        return f"postgresql {self._address.host}:{self._address.port}/{self._address.database}"

    @contextlib.asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """Raise what delivery knows for what the driver raises."""
        try:
            yield
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ssl.SSLError) as error:
            raise meaning(error, self._where) from error

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        """Yield the connection, made and its tables looked at if there was none."""
        async with self._translated():
            try:
                if time.monotonic() > self._connected_at + CONNECTION_S_MAX:
                    await self._disconnect()
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                    self._destination = await tables.ready(
                        self._connection, *self._tables, **self._how
                    )
                    self._connected_at = time.monotonic()
                    self.stats.connections += 1
                yield self._connection
            except SinkRejected:
                raise
            except BaseException:
                if self._connection is not None:
                    self._connection.terminate()
                    self._connection = None
                raise

    async def _connect(self) -> Any:
        where = self._address
        return await asyncpg.connect(
            host=where.host,
            port=where.port,
            user=where.user or None,
            password=where.password or None,
            database=where.database,
            ssl=self._tls,
            timeout=self._timeout_s,
            # Behind PgBouncer, the next transaction may be in another session.
            statement_cache_size=0,
            server_settings={"application_name": "segsrv"},
        )

    async def _store(
        self, connection: Any, batch: Batch, lines: bytes, facts: tuple[str, ...]
    ) -> bool:
        """Store *batch*; return False if it is what was stored last."""
        await self._copy(connection, lines)
        ends = orjson.dumps(dict(batch.ends)).decode()
        tag = await connection.execute(self._insert, *facts, *self._key, batch.id, ends)
        await connection.execute("COMMIT")
        return bool(tag != "INSERT 0 0")

    async def _copy(self, connection: Any, lines: bytes) -> None:
        await connection.execute(self._begin)
        await connection.copy_to_table(
            sql.LINES,
            schema_name="pg_temp",
            columns=["line"],
            source=_chunks(lines),
            # JSON has no raw control characters, so nothing in a line has to be escaped.
            format="csv",
            quote=QUOTE.decode(),
            delimiter="\x02",
            encoding="utf-8",
        )

    async def _refusal(
        self,
        connection: Any,
        lines: bytes,
        facts: tuple[str, ...],
        error: asyncpg.PostgresError,
        started_at: float,
    ) -> SegsrvError:
        """Return which of *lines* are refused, after all of them were for *error*.

        When time is up, it is those found by then. If that is none, delivery sends two halves.
        """
        reason = f"{self._where}: {said(error)}"
        search_s = self._timeout_s * SEARCH_SHARE
        if time.monotonic() - started_at > search_s / 2:
            return SinkRejected(reason)
        try:
            await self._copy(connection, lines)
            await connection.execute(sql.search(self._table))
            rows = await connection.fetch(
                sql.SEARCH, *facts, started_at + search_s - time.monotonic()
            )
        except asyncpg.PostgresError as other:
            if not is_about_events(other, tuple(sql.COLUMN_TYPES)):
                raise
            # A line that COPY itself does not take; it says which.
            await connection.execute("ROLLBACK")
            line = _COPY_LINE.match(getattr(other, "context", None) or "")
            return SinkRejected(reason, indexes=[int(line[1]) - 1] if line else ())
        await connection.execute("ROLLBACK")
        for row in rows:
            known = tuple(sql.COLUMN_TYPES)
            if fault := whose_fault(row["code"], row["rule"], row["place"], known):
                return SinkMisconfigured(f"{self._where}: {fault}")
            if row["code"] == UNIQUE_VIOLATION and await self._is_numbered(connection, row["rule"]):
                return SinkMisconfigured(
                    f"{self._where}: the sequence behind {row['rule']!r} gives numbers that the "
                    "table has; set it to the highest with setval()"
                )
        if rows:
            reason = f"{self._where}: {message_of(rows[0]['code'], rows[0]['message'])}"
        return SinkRejected(reason, indexes=[row["refused"] - 1 for row in rows])

    async def _is_numbered(self, connection: Any, index: str) -> bool:
        """Say whether what *index* keeps unique is no event's, but comes from a sequence."""
        async with tables.transaction(connection):
            return bool(await connection.fetchval(sql.NUMBERED, self._table.quoted, index))

    async def _forget(self, connection: Any, statement: str, *values: str) -> None:
        """Delete the positions of commands; without the right to delete they stay."""
        try:
            async with tables.transaction(connection):
                await connection.execute(statement, *values)
        except asyncpg.InsufficientPrivilegeError:
            await connection.execute("ROLLBACK")


_OF_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError)


async def _chunks(lines: bytes) -> AsyncIterator[memoryview]:
    """Yield *lines* in pieces, each sent before the next is taken."""
    view = memoryview(lines)
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]


def _not_json(batch: Batch, where: str) -> SinkRejected:
    """Return the refusal of lines with QUOTE in them, which would swallow those behind."""
    refused = [index for index, line in enumerate(batch.lines()) if QUOTE in line]
    return SinkRejected(f"{where}: a control character in JSON", indexes=refused)


def _columns_of(facts: list[Facts]) -> tuple[str, ...]:
    """Return what `postgresql_sql.insert` takes of *facts*: JSON arrays, one a column."""
    key_ids, formats, received_ms, types, _lengths, event_ids = zip(*facts, strict=True)
    return tuple(map(_json, (event_ids, received_ms, types, formats, key_ids)))


def _json(values: tuple[Any, ...]) -> str:
    text, _count = storable(orjson.dumps(values))
    return text.decode()
