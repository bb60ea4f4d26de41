"""What is known of an event without parsing its line again: facts travel beside the lines.

The facts of a frame are a JSON array of runs. A run stands for the events of one request, which
share most facts, and holds one entry an event of what differs:

    [key id, format, received (ms since 1970), types, line bytes, event ids]

`types` is one text where all events have the same type. Line bytes include the newline, so that
lines are found in the payload by adding up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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


UNKNOWN = ""
"""Key id, format, type and event id in journals that were written without facts."""


def encode(run: Run) -> bytes:
    """Return *run* as JSON, to be joined with others of a frame."""
    return orjson.dumps(run[:])


def encode_unknown(lines: Sequence[bytes]) -> bytes:
    """Return the run of *lines* of which nothing is known but their lengths."""
    lengths = [len(line) for line in lines]
    return encode(Run(UNKNOWN, UNKNOWN, 0, UNKNOWN, lengths, [UNKNOWN] * len(lengths)))


def join(runs: Iterable[bytes]) -> bytes:
    """Return the facts of a frame that holds the events of *runs* in this order."""
    return b"[" + b",".join(runs) + b"]"


def decode(data: bytes | memoryview) -> list[Run]:
    """Return the runs of a frame.

    Raises:
        ValueError: They are no facts.

    """
    return [Run(*run) for run in orjson.loads(data)]


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
    lengths = [len(line) for line in lines.splitlines(keepends=True)]
    ids = [UNKNOWN] * len(lengths)
    return [Run(UNKNOWN, UNKNOWN, received_ms, UNKNOWN, lengths, ids)] if lengths else []


def each(runs: Sequence[Run]) -> Iterator[Facts]:
    """Yield the facts of every event, in order."""
    for key_id, output, received_ms, types, lengths, ids in runs:
        kinds = [types] * len(ids) if isinstance(types, str) else types
        for kind, length, event_id in zip(kinds, lengths, ids, strict=True):
            yield Facts(key_id, output, received_ms, kind, length, event_id)
