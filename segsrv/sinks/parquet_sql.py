"""The statement by which DuckDB makes a Parquet file of lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from segsrv.events.columns import COLUMNS, EVENT, FACTS, Column, Path

FACTS_BEFORE = ("head_chars", "event_id", "received_ms", "type", "format", "key_id")
"""With facts, a line is a JSON array of these and the event. The first is a text of digits, which
says how many characters stand before the event; that is stored as it stands there."""

_FOUND_FACTS = (
    Column(
        "event_id", "text", ("eventn_ctx_event_id",), ("eventn_ctx", "event_id"), ("messageId",)
    ),
    Column("received_at", "timestamp", ("_timestamp",), ("_timestamp",), ("receivedAt",)),
    Column("type", "text", ("event_type",), ("event_type",), ("type",)),
)
"""What a line says of itself, for lines whose facts are not known."""

SHAPES = ("flat", "compat", "segment")
_TYPES = {"text": "VARCHAR", "timestamp": "TIMESTAMPTZ", "float": "DOUBLE", "bool": "BOOLEAN"}
_NO_TEXTS = "('OBJECT', 'ARRAY', 'NULL', 'BOOLEAN')"
_NO_NUMBERS = "('OBJECT', 'ARRAY', 'NULL', 'VARCHAR', 'BOOLEAN')"
_TIME = r"\d{4}-\d\d-\d\d[T ]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_TIME_CHARS_MAX = 64
_TIMES = "'0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'"


def copy_statement(
    source: str,
    target: str,
    *,
    has_facts: bool,
    line_bytes_max: int,
    row_group_bytes: int,
    metadata: Mapping[str, str],
) -> str:
    """Return the statement that reads the lines of the file *source* and writes *target*."""
    # The reader of CSV would do too, but loses lines that are nearly as long as its buffer.
    lines = f"read_ndjson_objects({_text(source)}, maximum_object_size = {line_bytes_max})"
    root, facts, event = "$", "NULL", "json"
    columns = COLUMNS if has_facts else (*COLUMNS, *_FOUND_FACTS)
    if has_facts:
        root = f"$[{len(FACTS_BEFORE)}]"
        facts = f"json_extract_string(json, {_list(f'$[{n}]' for n in range(len(FACTS_BEFORE)))})"
        event = "substring(json, k[1]::BIGINT + 1, length(json) - k[1]::BIGINT - 1)"
    found = ", ".join(
        f"CASE shape {_cases(function, root, columns)} END AS {name}"
        for function, name in (("json_extract_string", "v"), ("json_type", "t"))
    )
    shape = _shape(root, has_facts=has_facts)
    values = [
        *(_known_facts() if has_facts else _facts_of_lines(columns)),
        *(_value(number, column) for number, column in enumerate(COLUMNS, 1)),
        f'({event})::VARCHAR AS "{EVENT}"',
    ]
    about = ", ".join(f"{_text(name)}: {_text(value)}" for name, value in metadata.items())
    # Nothing that a client sends is in it: constants, numbers, and the paths of descriptors.
    return (
        f"COPY (SELECT {', '.join(values)} "  # noqa: S608
        f"FROM (SELECT json, k, {found} FROM "
        f"(SELECT json, k, {shape} AS shape FROM (SELECT json, {facts} AS k FROM {lines})))) "
        f"TO {_text(target)} (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false, "
        f"ROW_GROUP_SIZE_BYTES {row_group_bytes}, KV_METADATA {{{about}}})"
    )


def _shape(root: str, *, has_facts: bool) -> str:
    """Return the expression of the format that says where an event has its values."""
    kinds = {
        name: f"json_type(json, '{root}.{name}')"
        for name in ("eventn_ctx", "eventn_ctx_event_id", "messageId")
    }
    seen = (
        f"CASE WHEN {kinds['eventn_ctx']} = 'OBJECT' THEN 'compat' "
        f"WHEN {kinds['eventn_ctx_event_id']} IS NULL AND {kinds['messageId']} = 'VARCHAR' "
        "THEN 'segment' ELSE 'flat' END"
    )
    if not has_facts:
        return seen
    return f"CASE WHEN k[5] IN ({', '.join(map(_text, SHAPES))}) THEN k[5] ELSE {seen} END"


def _cases(function: str, root: str, columns: Sequence[Column]) -> str:
    return " ".join(
        f"WHEN '{shape}' THEN {function}(json, {_paths(root, (c.path(shape) for c in columns))})"
        for shape in SHAPES
    )


def _known_facts() -> Iterator[str]:
    """Yield the columns of FACTS: what is empty is not known, nor is a receipt at 0."""
    for number, (name, column) in enumerate(zip(FACTS_BEFORE[1:], FACTS, strict=True), 2):
        known = f"nullif(k[{number}], '')"
        if name == "received_ms":
            known = f"make_timestamptz(nullif(k[{number}]::BIGINT, 0) * 1000)"
        yield f'{known} AS "{column.name}"'


def _facts_of_lines(columns: Sequence[Column]) -> Iterator[str]:
    numbers = {column: number for number, column in enumerate(columns, 1)}
    found = {column.name: _value(numbers[column], column) for column in _FOUND_FACTS}
    for fact in FACTS:
        yield found.get(fact.name, f'NULL::{_TYPES[fact.type]} AS "{fact.name}"')


def _value(number: int, column: Column) -> str:
    """Return the column that has the *number*th found value, or NULL if that doesn't fit."""
    value, kind = f"v[{number}]", f"t[{number}]"
    match column.type:
        case "text":
            fitting = f"CASE WHEN {kind} NOT IN {_NO_TEXTS} THEN {value}"
        case "timestamp":
            time = f"try_cast(upper({value}) AS TIMESTAMPTZ)"
            fitting = (
                f"CASE WHEN {kind} = 'VARCHAR' AND strlen({value}) <= {_TIME_CHARS_MAX} "
                f"AND regexp_full_match(upper({value}), '{_TIME}') "
                f"AND {time} BETWEEN {_TIMES} THEN {time}"
            )
        case "float":
            amount = f"try_cast({value} AS DOUBLE)"
            fitting = f"CASE WHEN {kind} NOT IN {_NO_NUMBERS} AND isfinite({amount}) THEN {amount}"
        case "bool":
            fitting = f"CASE WHEN {kind} = 'BOOLEAN' THEN {value} = 'true'"
    return f'{fitting} END AS "{column.name}"'


def _paths(root: str, paths: Iterator[Path]) -> str:
    return _list(root + "".join(f'."{key}"' for key in path) for path in paths)


def _list(texts: Iterator[str]) -> str:
    return f"[{', '.join(map(_text, texts))}]"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
