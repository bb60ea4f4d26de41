"""What is known of an event without parsing its line again: facts travel beside the lines.

The facts of a frame are a JSON array of runs. A run stands for the events of one request, which
share most facts, and holds one entry an event of what differs:

    [key id, format, received (ms since 1970), types, line bytes, event ids]

`types` is one text where all events have the same type. Line bytes include the newline, so that
lines are found in the payload by adding up.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import NamedTuple

import orjson


class Run(NamedTuple):
    """Events of one request; `lengths` and `ids` have one entry an event."""

    key_id: str
    format: str
    received_ms: int
    types: str | list[str]
    lengths: list[int]
    ids: list[str]


class Facts(NamedTuple):
    """Those of one event; `length` is its line's, in bytes."""

    key_id: str
    format: str
    received_ms: int
    type: str
    length: int
    event_id: str


# Calls from C into Python's own constructors would take most of the time that facts cost.
_run = partial(tuple.__new__, Run)
_facts = partial(tuple.__new__, Facts)

UNKNOWN = ""
"""Key id, format, type and event id in journals that were written without facts."""

# A run waits for its commit with its comma: what orjson returns keeps 4 KiB, however short it is,
# and what is added to it makes a copy.


def encode(run: Run) -> bytes:
    """Return *run* as JSON and a comma, to be joined with others of a frame."""
    return orjson.dumps(run[:]) + b","


def encode_request(
    key_id: str,
    output: str,
    received_ms: int,
    kinds: list[str],
    lines: list[bytes],
    ids: list[str],
) -> bytes:
    """Return the run of a request's events, of which each has its entry in the three lists."""
    if len(lines) == 1:
        one = (key_id, output, received_ms, kinds[0], (len(lines[0]),), ids)
        return orjson.dumps(one) + b","
    types = kinds[0] if kinds and kinds.count(kinds[0]) == len(kinds) else kinds
    return orjson.dumps((key_id, output, received_ms, types, list(map(len, lines)), ids)) + b","


def encode_unknown(lines: Sequence[bytes]) -> bytes:
    """Return the run of *lines* of which nothing is known but their lengths."""
    lengths = [len(line) for line in lines]
    return encode(Run(UNKNOWN, UNKNOWN, 0, UNKNOWN, lengths, [UNKNOWN] * len(lengths)))


def join(runs: Iterable[bytes]) -> bytes:
    """Return the facts of a frame that holds the events of *runs* in this order."""
    return b"[" + b"".join(runs)[:-1] + b"]"


def decode(data: bytes | memoryview) -> list[Run]:
    """Return the runs of a frame.

    Raises:
        ValueError, TypeError: They are no facts.

    """
    runs = orjson.loads(data)
    if not set(map(len, runs)) <= {len(Run._fields)}:
        raise ValueError("not the facts of a frame")
    return list(map(_run, runs))


def fit(runs: Sequence[Run], events: int, payload_bytes: int) -> bool:
    """Say whether *runs* describe that many events, and lines of that many bytes."""
    size = count = 0
    for _key_id, _format, _received_ms, types, lengths, ids in runs:
        if not len(lengths) == len(ids) == (len(ids) if isinstance(types, str) else len(types)):
            return False
        count += len(ids)
        size += sum(lengths)
    return count == events and size == payload_bytes


def of_lines(lines: bytes, received_ms: int = 0) -> list[Run]:
    """Return what is known of *lines* that were written without facts."""
    lengths = list(map(len, io.BytesIO(lines)))
    ids = [UNKNOWN] * len(lengths)
    return [Run(UNKNOWN, UNKNOWN, received_ms, UNKNOWN, lengths, ids)] if lengths else []


def each(runs: Iterable[Run]) -> list[Facts]:
    """Return the facts of every event, in order; *runs* fit."""
    found: list[Facts] = []
    for key_id, output, received_ms, types, lengths, ids in runs:
        kinds = repeat(types) if isinstance(types, str) else types
        if len(ids) == 1:
            kind = next(iter(kinds))
            found.append(_facts((key_id, output, received_ms, kind, lengths[0], ids[0])))
            continue
        known = zip(repeat(key_id), repeat(output), repeat(received_ms), kinds, lengths, ids)
        found += map(_facts, known)
    return found
