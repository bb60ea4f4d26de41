"""From stored lines to Kafka's records: their values, keys, headers and sizes. Pure functions."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from segsrv.events.columns import COLUMNS, Path
from segsrv.journal.facts import UNKNOWN, Facts
from segsrv.sinks.base import Batch
from segsrv.sinks.kafka.options import KeyBy

KEY_BYTES_MAX = 256
"""A longer key is replaced by its digest: clients choose user ids, and a key repeats one."""
_RECORD_OVERHEAD_BYTES = 36
_HEADER_OVERHEAD_BYTES = 10
_BATCH_OVERHEAD_BYTES = 61
_PATHS = {column.name: column for column in COLUMNS}

Headers = list[tuple[str, str | bytes | None]]


class Record(NamedTuple):
    """One event as Kafka takes it: the stored line without its newline is the value."""

    value: bytes
    key: bytes | None
    headers: Headers


def values_of(batch: Batch) -> list[bytes]:
    """Return the lines of *batch* without their newlines."""
    # Part by part: `batch.content` would be one more copy of all, kept as long as the batch.
    return [line[:-1] for part in batch.parts for line in io.BytesIO(part)]


def records_of(
    values: Sequence[bytes], facts: Sequence[Facts], key_by: KeyBy, numbers: Iterable[int]
) -> Iterator[Record]:
    """Yield the records of the events with these *numbers*.

    A header of which nothing is known is left out.
    """
    known: tuple[object, ...] = ()
    shared: Headers = []
    for number in numbers:
        value = values[number]
        key_id, output, received_ms, kind, _length, event_id = event_facts = facts[number]
        # Most events of a request share these, and events of a request stand together.
        if known != (kind, key_id, output, received_ms):
            known = (kind, key_id, output, received_ms)
            shared = _shared_headers(event_facts)
        headers = [("event_id", event_id.encode()), *shared] if event_id else shared
        key = None if key_by == "none" else _key(value, event_facts, key_by)
        yield Record(value, key, headers)


def _shared_headers(facts: Facts) -> Headers:
    texts = (("type", facts.type), ("key_id", facts.key_id), ("format", facts.format))
    headers: Headers = [(name, text.encode()) for name, text in texts if text != UNKNOWN]
    if facts.received_ms:
        headers.append(("received_ms", b"%d" % facts.received_ms))
    return headers


def wire_bytes(record: Record) -> int:
    """Return at most how large a batch of this record alone is before compression."""
    size = _BATCH_OVERHEAD_BYTES + _RECORD_OVERHEAD_BYTES + len(record.value)
    size += len(record.key or b"")
    return size + sum(
        _HEADER_OVERHEAD_BYTES + len(name) + len(value or b"") for name, value in record.headers
    )


def oversize(batch: Batch, values: Sequence[bytes], key_by: KeyBy, limit_bytes: int) -> list[int]:
    """Return the numbers of the events that a topic with this limit takes in no batch."""
    # What a record adds to its line: an id that the line has too, and things of bounded length.
    doubtful = [
        number for number, size in enumerate(map(len, values)) if 2 * size + 1_000 > limit_bytes
    ]
    records = records_of(values, batch.facts, key_by, doubtful)
    return [
        number
        for number, record in zip(doubtful, records, strict=True)
        if wire_bytes(record) > limit_bytes
    ]


def _key(line: bytes, facts: Facts, key_by: KeyBy) -> bytes | None:
    if key_by == "event_id":
        key = facts.event_id.encode()
    elif key_by == "key_id":
        key = facts.key_id.encode()
    else:
        key = _found(line, facts.format, key_by)
    if len(key) > KEY_BYTES_MAX:
        key = hashlib.sha256(key).hexdigest().encode()
    return key or None


def _found(line: bytes, output: str, name: str) -> bytes:
    """Return the text or number that the typed column *name* has; empty if there is none."""
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        # Half of a surrogate pair, which JSON can write and UTF-8 can't.
        event = json.loads(line)
    if not output and isinstance(event.get("eventn_ctx"), dict):
        output = "compat"
    value = _at(event, _PATHS[name].path(output))
    if isinstance(value, str):
        return value.encode(errors="surrogatepass").decode(errors="replace").encode()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return orjson.dumps(value)
    return b""


def _at(event: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(event, dict):
            return None
        event = event.get(name)
    return event
