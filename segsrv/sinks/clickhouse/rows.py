"""Events as the body of an INSERT in the format JSONEachRow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from segsrv.journal.facts import Facts

ID = "event_id"

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

    Rows are put together as bytes: handing `orjson` a line takes it ten times as long.
    """
    shared = [(name, read) for name, read in readers if name != ID]
    read_id = next((read for name, read in readers if name == ID), None)
    known: tuple[object, ...] = ()
    head = b""
    rows = []
    for line, event_facts in zip(lines, facts, strict=True):
        # Events of a request share all but their ids, and stand together.
        if event_facts[:4] != known:
            known = event_facts[:4]
            same = orjson.dumps({name: read(event_facts) for name, read in shared})
            head = same[:-1] + b"," if shared else b"{"
        event = line if as_objects else orjson.dumps(line[:-1].decode())
        if read_id is None:
            rows.append(b'%b"event":%b}' % (head, event))
        else:
            own = orjson.dumps(read_id(event_facts))
            rows.append(b'%b"event_id":%b,"event":%b}' % (head, own, event))
    if as_array:
        # Here, as it would be one more copy of all of them.
        rows[0] = b"[" + rows[0]
        rows[-1] += b"]"
    return b",".join(rows)
