"""The table that events go to in ClickHouse: its statement, and what else is asked of the server.

The server fills the typed columns itself, by DEFAULT expressions over the stored line, so they cost
the client nothing, and columns that somebody adds work alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from segsrv.events.columns import COLUMNS, EVENT, FACTS, Column, Path

FACT_NAMES = tuple(fact.name for fact in FACTS)
_REPEATED = "LowCardinality(Nullable(String))"
FACT_TYPES = {
    "event_id": "Nullable(String)",
    "received_at": "DateTime64(3, 'UTC')",
    "type": _REPEATED,
    "format": _REPEATED,
    "key_id": _REPEATED,
}
_WINDOW = r"\b%s = (\d+)"

_NUMBER = "'^-?[0-9]'"
_DATE = (
    "'^(19[0-9][1-9]|19[1-9]0|2[01][0-9][0-9]|22[0-8][0-9]|229[0-8])-[01][0-9]-[0-3][0-9]"
    "[Tt ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]+)?"
    "([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$'"
)
"""RFC 3339 with a zone, of the years 1901 to 2298, which are within any zone's DateTime64."""


def quoted(name: str) -> str:
    """Return *name* as an identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _literal(text: str) -> str:
    """Return *text* as a string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def create_table(table: str, window: int, *, is_modern: bool) -> str:
    """Return the statement, on one line, that makes *table*, which is quoted.

    Without *is_modern* it is for servers that can't read JSON or forget no repeated insert.
    """
    if not is_modern:
        texts = [f"{name} Nullable(String)" for name in FACT_NAMES if name != "received_at"]
        columns = [*texts, "received_at DateTime", f"{EVENT} String"]
        return (
            f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}) ENGINE = MergeTree "
            "PARTITION BY toYYYYMM(received_at) ORDER BY received_at"
        )
    columns = [f"{name} {FACT_TYPES[name]}" for name in FACT_NAMES]
    columns.append(f"{EVENT} String CODEC(ZSTD(1))")
    columns += [_typed(column) for column in COLUMNS]
    columns.append("INDEX event_id_index event_id TYPE bloom_filter GRANULARITY 4")
    return (
        f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}) ENGINE = MergeTree "
        "PARTITION BY toYYYYMM(received_at) ORDER BY received_at "
        f"SETTINGS non_replicated_deduplication_window = {window}"
    )


def known_names(names: Iterable[str]) -> str:
    """Return the query for which of *names* the server has as settings or functions."""
    texts = ", ".join(map(_literal, names))
    return (
        f"SELECT name FROM system.settings WHERE name IN ({texts}) UNION ALL "  # noqa: S608 - Quoted.
        f"SELECT name FROM system.functions WHERE name IN ({texts})"
    )


def engine_of(database: str, table: str) -> str:
    """Return the query for the table's engine and its definition."""
    return (
        "SELECT engine, engine_full FROM system.tables "  # noqa: S608 - Quoted.
        f"WHERE database = {_literal(database)} AND name = {_literal(table)}"
    )


def default_of(setting: str) -> str:
    """Return the query for what a setting of tables is where they don't say."""
    return f"SELECT value FROM system.merge_tree_settings WHERE name = {_literal(setting)}"  # noqa: S608 - Quoted.


def insert_into(table: str, columns: Iterable[str]) -> str:
    """Return the statement that rows follow."""
    names = ", ".join(map(quoted, columns))
    return f"INSERT INTO {table} ({names}) FORMAT JSONEachRow"


def holds_events(column_type: str) -> bool:
    """Say whether the column for whole lines can be of that type."""
    return column_type in {"String", "Nullable(String)"} or column_type.startswith("JSON")


def window_setting(engine: str) -> str:
    """Return the setting by which a table of *engine* knows repeated inserts; empty if none."""
    if not engine.endswith("MergeTree"):
        return ""
    is_shared = engine.startswith(("Replicated", "Shared"))
    return f"{'' if is_shared else 'non_'}replicated_deduplication_window"


def window_of(setting: str, engine_full: str) -> int | None:
    """Return the value of that setting in the table's own definition, if it is there."""
    found = re.search(_WINDOW % setting, engine_full)
    return int(found[1]) if found else None


def _typed(column: Column) -> str:
    """Return a column with its DEFAULT: NULL where the value is none of its type."""
    raw = _raw(column)
    # An equal expression of two columns is evaluated once a block.
    match column.type:
        case "text":
            text = f"JSONExtractString({raw})"
            value = (
                f"multiIf(startsWith({raw}, '\"'), {text}, match({raw}, {_NUMBER}), {raw}, NULL)"
            )
            kind = "Nullable(String)"
        case "timestamp":
            text = f"JSONExtractString({raw})"
            # It knows no small t and z.
            parsed = f"parseDateTime64BestEffortOrNull(upper({text}), 3, 'UTC')"
            is_time = f"startsWith({raw}, '\"') AND match({text}, {_DATE})"
            value, kind = f"if({is_time}, {parsed}, NULL)", "Nullable(DateTime64(3, 'UTC'))"
        case "float":
            value, kind = f"toFloat64OrNull({raw})", "Nullable(Float64)"
        case "bool":
            value, kind = f"multiIf({raw} = 'true', 1, {raw} = 'false', 0, NULL)", "Nullable(Bool)"
    return f"{quoted(column.name)} {kind} DEFAULT {value}"


def _raw(column: Column) -> str:
    """Return the expression of the column's value as JSON; empty where there is none."""
    others = [
        (name, path)
        for name, path in (("compat", column.compat), ("segment", column.segment))
        if path != column.flat
    ]
    if not others:
        return _at(column.flat)
    cases = "".join(f"format = '{name}', {_at(path)}, " for name, path in others)
    return f"multiIf({cases}{_at(column.flat)})"


def _at(path: Path) -> str:
    expression = EVENT
    for key in path:
        expression = f"JSONExtractRaw({expression}, {_literal(key)})"
    return expression
