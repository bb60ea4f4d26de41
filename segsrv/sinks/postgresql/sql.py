"""What the PostgreSQL sink says in SQL: how rows are made of lines, and what stores them.

Lines are copied as they are into a temporary table and become columns in SQL. No cast there may
fail, whatever clients send: what does not fit a column is NULL there, and stays in `event`.
"""

# ruff: noqa: S608 - All values are parameters, and names are quoted.

from __future__ import annotations

from collections.abc import Sequence

from segsrv.events.columns import COLUMNS, EVENT, FACTS, Column, ColumnType
from segsrv.sinks.postgresql.names import Name, quoted

TYPES: dict[ColumnType, str] = {
    "text": "text",
    "timestamp": "timestamptz",
    "float": "double precision",
    "bool": "boolean",
}
COLUMN_TYPES = {
    **{fact.name: TYPES[fact.type] for fact in FACTS},
    **{column.name: TYPES[column.type] for column in COLUMNS},
    EVENT: "jsonb",
}
"""All columns of the table of events, in order."""
POSITION_TYPES = {
    "origin": "text",
    "sink": "text",
    "destination": "text",
    "batch_id": "text",
    "ends": "jsonb",
    "stored_at": "timestamptz",
}
POSITION_KEY = ("origin", "sink", "destination")
_IS_KEY = " AND ".join(f"{name} = ${number}" for number, name in enumerate(POSITION_KEY, 1))

RUN = "run-"
"""Begins the origin of a command's events, which is forgotten when the command ends."""
RUN_KEPT = "30 days"

LINES = "segsrv_lines_1"
"""The temporary table of a session, which a pool may hand to the next release of segsrv."""
PARAMETERS = 10
"""Of `insert`: FACTS as JSON arrays, and then origin, sink, destination, batch id and ends."""

_STAMP = (
    "^(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-([0-2][0-9]|3[01])[Tt ]([01][0-9]|2[0-3])(:[0-5][0-9]){2}"
    "([.][0-9]{1,30})?([Zz]|[+-](0[0-9]|1[0-5]):[0-5][0-9])$"
)
_FLOATS = "BETWEEN 5e-324 AND 1.7976931348623157e308"


def begin(timeout_s: float) -> str:
    """Return what begins each transaction, in one trip.

    All of it ends with the transaction but the temporary table, so that a pool of connections may
    stand between. A server where commits may be lost in a crash has to wait for this one: after
    it, the journal lets go of the events.
    """
    limit_ms = max(round(timeout_s * 1_000), 1)
    return f"""
        BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
        SET LOCAL statement_timeout = {limit_ms};
        SET LOCAL idle_in_transaction_session_timeout = {limit_ms};
        SELECT set_config('synchronous_commit', 'on', true)
            WHERE current_setting('synchronous_commit') = 'off';
        DO $segsrv$ BEGIN
            IF to_regclass('pg_temp.{LINES}') IS NULL THEN
                CREATE TEMPORARY TABLE {LINES}
                    (n integer GENERATED ALWAYS AS IDENTITY, line text) ON COMMIT DELETE ROWS;
                -- Compressing lines here would cost more than storing them.
                ALTER TABLE pg_temp.{LINES} ALTER COLUMN line SET STORAGE EXTERNAL;
            ELSE
                PERFORM setval('pg_temp.{LINES}_n_seq', 1, false);
            END IF;
        END $segsrv$
    """


def insert(table: Name, positions: Name) -> str:
    """Return the statement that stores the batch in LINES, unless it is the last that was stored.

    The row of the position is locked until the transaction ends. One of an earlier try, of which
    the outcome is not known yet, is waited for.
    """
    rows = _rows(f"SELECT n, line::jsonb AS event FROM pg_temp.{LINES}", PARAMETERS // 2)
    return f"""
        WITH mark AS ({_mark(positions, [f"${number}" for number in range(6, 11)])} RETURNING 1)
        INSERT INTO {table.quoted} ({_listed(COLUMN_TYPES)})
        {rows} WHERE EXISTS (SELECT FROM mark)
    """


def trial(table: Name, positions: Name) -> tuple[str, str]:
    """Return statements that explain `insert`: they fail where it would, and change nothing."""
    rows = _rows("SELECT 1 AS n, '{}'::jsonb AS event", 0)
    nothing = [f"NULL::{POSITION_TYPES[name]}" for name in list(POSITION_TYPES)[:5]]
    return (
        f"EXPLAIN INSERT INTO {table.quoted} ({_listed(COLUMN_TYPES)}) {rows}",
        f"EXPLAIN {_mark(positions, nothing)}",
    )


def search(table: Name) -> str:
    """Return what makes a function that tries the lines of LINES one by one.

    Its parameters are FACTS as JSON arrays, and for how many seconds it may go on. It returns the
    number of each line that is refused and why. The table has all others when it ends, so the
    transaction has to be undone.
    """
    rows = _rows("SELECT one.n AS n, one.line::jsonb AS event", PARAMETERS // 2)
    return f"""
        CREATE FUNCTION pg_temp.segsrv_refused(jsonb, jsonb, jsonb, jsonb, jsonb, double precision)
        RETURNS TABLE (refused integer, code text, message text, rule text, place text)
        LANGUAGE plpgsql AS $segsrv$
        #variable_conflict use_column
        DECLARE
            one record;
            ends_at timestamptz := clock_timestamp() + make_interval(secs => $6);
        BEGIN
            SET CONSTRAINTS ALL IMMEDIATE;
            FOR one IN SELECT n, line FROM pg_temp.{LINES} ORDER BY n LOOP
                BEGIN
                    INSERT INTO {table.quoted} ({_listed(COLUMN_TYPES)}) {rows};
                EXCEPTION WHEN data_exception OR integrity_constraint_violation OR plpgsql_error
                    OR program_limit_exceeded OR with_check_option_violation
                THEN
                    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
                        rule = CONSTRAINT_NAME, place = COLUMN_NAME;
                    refused := one.n;
                    RETURN NEXT;
                END;
                EXIT WHEN clock_timestamp() > ends_at;
            END LOOP;
        END $segsrv$
    """


SEARCH = "SELECT * FROM pg_temp.segsrv_refused($1, $2, $3, $4, $5, $6)"


NUMBERED = """
    SELECT bool_and(a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%')
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE i.indrelid = to_regclass($1) AND c.relname = $2
"""
"""Says whether all columns of an index, $2, of the table $1 have their values from a sequence."""


def position(positions: Name) -> str:
    """Return the query for the batch that was stored last, and its ends."""
    return f"SELECT batch_id, ends::text FROM {positions.quoted} WHERE {_IS_KEY}"


def forget(positions: Name) -> tuple[str, str]:
    """Return what deletes the positions of one command, $1, and those that are old."""
    delete = f"DELETE FROM {positions.quoted} WHERE starts_with(origin, '{RUN}')"
    return f"{delete} AND origin = $1", f"{delete} AND stored_at < now() - interval '{RUN_KEPT}'"


def _mark(positions: Name, values: Sequence[str]) -> str:
    updates = ", ".join(f"{name} = excluded.{name}" for name in ("batch_id", "ends", "stored_at"))
    return (
        f"INSERT INTO {positions.quoted} AS p ({_listed(POSITION_TYPES)})"
        f" VALUES ({', '.join(values)}, now()) ON CONFLICT ({_listed(POSITION_KEY)})"
        f" DO UPDATE SET {updates} WHERE p.batch_id <> excluded.batch_id"
    )


def _rows(lines: str, facts: int) -> str:
    """Return a query for the rows of *lines*, which yields `n` and `event`.

    The first *facts* parameters are those of FACTS; NULL stands for others. With OFFSET 0 a level
    is worked out once a row, and not again for each column above it.
    """
    values = [f"(${number}::jsonb ->> (n - 1))" for number in range(1, facts + 1)]
    values += ["NULL::text"] * (len(FACTS) - facts)
    known = dict(zip((fact.name for fact in FACTS), values, strict=True))
    of_compat, is_raw = (f"{known['format']} = '{name}'" for name in ("compat", "segment"))
    level = f"SELECT *, CASE WHEN {of_compat} THEN event -> 'eventn_ctx' ELSE event END AS ctx"
    level = f"{level}, {is_raw} AS is_raw"
    level = f"{level} FROM ({lines} OFFSET 0) AS parsed OFFSET 0"
    parts = [f"{_base(column)} AS {_parent(column)}" for column in COLUMNS if _is_deep(column)]
    level = f"SELECT *, {', '.join(dict.fromkeys(parts))} FROM ({level}) AS based OFFSET 0"
    stamps = [
        f"{_json(column, '->>')} AS stamp_{column.name}"
        for column in COLUMNS
        if column.type == "timestamp"
    ]
    level = f"SELECT *, {', '.join(stamps)} FROM ({level}) AS parted OFFSET 0"
    columns = [_fact(fact.name, known[fact.name]) for fact in FACTS]
    columns += [_value(column) for column in COLUMNS]
    return f"SELECT {', '.join(columns)}, event FROM ({level}) AS cut"


def _fact(name: str, value: str) -> str:
    if name == "received_at":
        return f"to_timestamp(nullif({value}::double precision, 0) / 1000)"
    return f"nullif({value}, '')"


def _value(column: Column) -> str:
    value = _json(column, "->")
    kind = f"jsonb_typeof({value})"
    if column.type == "text":
        return f"CASE WHEN {kind} IN ('string', 'number') THEN {_json(column, '->>')} END"
    if column.type == "bool":
        return f"CASE WHEN {kind} = 'boolean' THEN {value} = 'true' END"
    if column.type == "float":
        number = f"({value})::numeric"
        fits = f"{number} = 0 OR abs({number}) {_FLOATS}"
        return (
            f"CASE WHEN {kind} = 'number' THEN"
            f" CASE WHEN {fits} THEN {number}::double precision END END"
        )
    text = f"stamp_{column.name}"
    day = f"substr({text}, 9, 2)"
    first = f"make_date(substr({text}, 1, 4)::integer, substr({text}, 6, 2)::integer, 1)"
    last = f"to_char({first} + interval '1 month -1 day', 'DD')"
    # What goes beyond microseconds is cut off, as everywhere; the cast would round it.
    stamp = f"regexp_replace({text}, '([.][0-9]{{6}})[0-9]+', E'\\\\1')::timestamptz"
    return (
        f"CASE WHEN {kind} = 'string' AND {text} ~ '{_STAMP}' THEN"
        f" CASE WHEN {day} BETWEEN '01' AND '28' THEN {stamp}"
        f" WHEN {day} BETWEEN '29' AND {last} THEN {stamp} END END"
    )


def _json(column: Column, arrow: str) -> str:
    base = _parent(column) if _is_deep(column) else _root(column)
    value = f"({base} {arrow} '{column.flat[-1]}')"
    if column.segment == column.flat:
        return value
    raw = f"event {arrow.replace('-', '#')} '{{{','.join(column.segment)}}}'"
    return f"(CASE WHEN is_raw THEN {raw} ELSE {value} END)"


def _base(column: Column) -> str:
    return f"{_root(column)} -> '{column.flat[0]}'"


def _parent(column: Column) -> str:
    return f"{_root(column)}_{column.flat[0]}"


def _root(column: Column) -> str:
    return "event" if column.compat == column.flat else "ctx"


def _is_deep(column: Column) -> bool:
    assert len(column.flat) <= 2, "a level for each key but the last"
    assert column.compat in (column.flat, ("eventn_ctx", *column.flat)), "one of two roots"
    return len(column.flat) == 2


def _listed(names: Sequence[str] | dict[str, str]) -> str:
    return ", ".join(map(quoted, names))
