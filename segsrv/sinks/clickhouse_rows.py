"""Events as the body of an INSERT in the format JSONEachRow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from segsrv.events.columns import EVENT
from segsrv.journal.facts import Facts

ROWS_AT_ONCE = 500
"""Encoded by one call, in which no other thread of Python runs: about 0.5 ms."""

_READ: dict[str, Callable[[Facts], Any]] = {
    "event_id": lambda facts: facts.event_id or None,
    "type": lambda facts: facts.type or None,
    "format": lambda facts: facts.format or None,
    "key_id": lambda facts: facts.key_id or None,
}
_TIMES: dict[str, Callable[[Facts], Any]] = {
    "DateTime64": lambda facts: facts.received_ms / 1000,
    "DateTime": lambda facts: facts.received_ms // 1000,
}


def reader(name: str, column_type: str) -> Callable[[Facts], Any] | None:
    """Return what makes a fact's value for a column of that type; None if it does not fit."""
    if name != "received_at":
        return _READ[name] if "String" in column_type or "UUID" in column_type else None
    return _TIMES.get(column_type.partition("(")[0])


def encode(
    lines: Sequence[bytes],
    facts: Sequence[Facts],
    readers: Sequence[tuple[str, Callable[[Facts], Any]]],
    *,
    as_objects: bool,
    as_array: bool,
) -> bytes:
    """Return the rows, in one JSON array if *as_array*.

    An array can't be taken for whole where its end is missing, but old servers read none. With
    *as_objects* the server keeps an event's JSON as it stands; without, it is put in a string.
    """
    chunks = []
    for start in range(0, len(lines), ROWS_AT_ONCE):
        rows = []
        end = start + ROWS_AT_ONCE
        for line, known in zip(lines[start:end], facts[start:end], strict=True):
            row = {name: read(known) for name, read in readers}
            row[EVENT] = orjson.Fragment(line) if as_objects else line[:-1].decode()
            rows.append(row)
        chunks.append(orjson.dumps(rows)[1:-1])
    body = b",".join(chunks)
    return b"[%b]" % body if as_array else body
