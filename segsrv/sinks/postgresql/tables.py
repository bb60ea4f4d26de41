"""Finds out whether the tables of a PostgreSQL sink are as they should be, and makes them so."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson

from segsrv.errors import SinkMisconfigured
from segsrv.sinks.postgresql.names import Name, quoted
from segsrv.sinks.postgresql.sql import COLUMN_TYPES, POSITION_KEY, POSITION_TYPES, trial

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 5
"""How long a column that is added waits for others to be done with the table; they wait behind."""
RELATIONS = {"r", "p", "v", "f"}
"""Tables, partitioned tables, views and foreign tables, in the catalog's letters."""

_FIND = """
    SELECT c.oid, c.relkind::text AS kind, format('%I.%I', n.nspname, c.relname) AS full_name,
        pg_has_role(c.relowner, 'USAGE') AS is_owner,
        (SELECT json_object_agg(a.attname,
            a.attnotnull AND NOT (a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> ''))
         FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        )::text AS columns,
        ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a
            ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] WHERE i.indrelid = c.oid
        ) AS indexed
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)
"""
_SURROUNDINGS = """
    SELECT current_setting('server_encoding') AS encoding, current_schema() AS schema,
        has_database_privilege(current_database(), 'TEMPORARY') AS may_have_temporary,
        has_database_privilege(current_database(), 'CREATE') AS may_make_schemas,
        (SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace
            WHERE nspname = coalesce(nullif($1, ''), current_schema())) AS may_make_tables
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """One table as it is; `mending` are the statements that make it what it should be."""

    full_name: str
    mending: tuple[str, ...]
    may_mend: bool
    hints: tuple[str, ...] = ()


async def check(
    connection: Any, table: Name, positions: Name, *, may_create: bool, where: str
) -> list[str]:
    """Find out whether `ready` would succeed, changing nothing; return what is worth a warning.

    Raises:
        SinkMisconfigured: It would not.
        asyncpg.PostgresError: The server refuses.

    """
    async with transaction(connection, "READ ONLY"):
        found = await _examine(connection, table, positions, where)
        if not _refuse(found, where, may_create=may_create):
            await _try(connection, table, positions)
    return [f"{where}: {hint}" for hint in found[0].hints]


async def ready(
    connection: Any, table: Name, positions: Name, *, may_create: bool, where: str
) -> str:
    """Make what is missing; return the table's full name.

    Raises:
        SinkMisconfigured: Something is missing and can't be made.
        asyncpg.PostgresError: The server refuses.

    """
    # One transaction, also for what only reads: behind a pool, the next may be another session's.
    async with transaction(connection):
        found = await _examine(connection, table, positions, where)
        if _refuse(found, where, may_create=may_create):
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
            # Two servers that start at once would make the same.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('segsrv tables'))")
            found = await _examine(connection, table, positions, where)
            for statement in _refuse(found, where, may_create=may_create):
                await connection.execute(statement)
                logger.info("sink: made what was missing statement=%s", statement)
            found = await _examine(connection, table, positions, where)
        await _try(connection, table, positions)
    for hint in found[0].hints:
        logger.warning("sink: %s: %s", where, hint)
    return found[0].full_name


@contextlib.asynccontextmanager
async def transaction(connection: Any, mode: str = "") -> AsyncIterator[None]:
    """Commit what is done in the block; a connection on which it failed has to be given up.

    The driver's own would wait for the answer to a rollback, also where a call that got none was
    cancelled for that, and so for ever.
    """
    await connection.execute(f"BEGIN {mode}")
    yield
    await connection.execute("COMMIT")


async def _examine(
    connection: Any, table: Name, positions: Name, where: str
) -> tuple[_Found, _Found]:
    around = await connection.fetchrow(_SURROUNDINGS, table.schema)
    if around["encoding"] != "UTF8":
        raise SinkMisconfigured(
            f"{where}: the database's encoding is {around['encoding']}, expected UTF8"
        )
    if not around["may_have_temporary"]:
        raise SinkMisconfigured(
            f"{where}: a right is missing: TEMPORARY, to make temporary tables in the database"
        )
    if not table.schema and around["schema"] is None:
        raise SinkMisconfigured(f"{where}: no schema of the search_path exists; name one in table")
    return (
        await _events_table(connection, table, around, where),
        await _positions_table(connection, positions),
    )


async def _events_table(connection: Any, table: Name, around: Any, where: str) -> _Found:
    row = await connection.fetchrow(_FIND, table.quoted)
    indexes = {
        "event_id": f"CREATE INDEX ON {table.quoted} USING hash (event_id)",
        "received_at": f"CREATE INDEX ON {table.quoted} (received_at)",
    }
    if row is None:
        make, may_mend = _creation(table, COLUMN_TYPES), around["may_make_tables"]
        statements = (make, *indexes.values())
        if may_mend is None:
            statements = (f"CREATE SCHEMA {quoted(table.schema)}", *statements)
            may_mend = around["may_make_schemas"]
        return _Found(full_name="", mending=statements, may_mend=may_mend)
    if row["kind"] not in RELATIONS:
        raise SinkMisconfigured(f"{where}: {table.quoted} is no table")
    columns: dict[str, bool] = orjson.loads(row["columns"])
    unfilled = [name for name, is_needed in columns.items() if is_needed]
    if unknown := [name for name in unfilled if name not in COLUMN_TYPES]:
        raise SinkMisconfigured(
            f"{where}: {table.quoted} has a column {unknown[0]!r} that is NOT NULL without a "
            "default, and segsrv has no value for it"
        )
    missing = [name for name in COLUMN_TYPES if name not in columns]
    adding = ", ".join(f"ADD COLUMN {quoted(name)} {COLUMN_TYPES[name]}" for name in missing)
    hints = [
        f"no index for queries by {name}; run: {statement}"
        for name, statement in indexes.items()
        if name not in row["indexed"]
    ]
    return _Found(
        full_name=row["full_name"],
        mending=(f"ALTER TABLE {table.quoted} {adding}",) if missing else (),
        may_mend=row["is_owner"],
        hints=tuple(hints) if row["kind"] in ("r", "p") else (),
    )


async def _positions_table(connection: Any, positions: Name) -> _Found:
    row = await connection.fetchrow(_FIND, positions.quoted)
    key = ", ".join(POSITION_KEY)
    make = _creation(positions, POSITION_TYPES, f", PRIMARY KEY ({key})")
    if row is None:
        around = await connection.fetchrow(_SURROUNDINGS, positions.schema)
        # Where the schema is missing, that of the events makes it.
        may_mend = around["may_make_tables"] is not False
        return _Found(full_name="", mending=(make,), may_mend=may_mend)
    return _Found(full_name=row["full_name"], mending=(), may_mend=True)


def _creation(name: Name, types: dict[str, str], more: str = "") -> str:
    columns = ", ".join(f"{quoted(column)} {kind}" for column, kind in types.items())
    return f"CREATE TABLE {name.quoted} ({columns}{more})"


def _refuse(found: tuple[_Found, _Found], where: str, *, may_create: bool) -> list[str]:
    """Return what has to be run, if it may be.

    Raises:
        SinkMisconfigured: It may not; the text has the statements.

    """
    statements = [statement for each in found for statement in each.mending]
    if not statements:
        return []
    advice = f"run: {'; '.join(statements)}"
    if not may_create:
        raise SinkMisconfigured(
            f"{where}: tables or columns are missing and create=false; {advice}"
        )
    if not all(each.may_mend for each in found if each.mending):
        raise SinkMisconfigured(
            f"{where}: a right is missing, to make tables or columns that are not there; {advice}"
        )
    return statements


async def _try(connection: Any, table: Name, positions: Name) -> None:
    """Have the server plan what `send` will run: it checks names, types and rights."""
    for statement in trial(table, positions):
        await connection.execute(statement)
