"""The objects that a batch becomes: one for each hour in which its events were received.

    dt=2026-11-25/hour=09/20261125T091502123Z-<batch id>.ndjson.zst

A key follows from the batch's id and its events alone. So when the batch comes again, it asks for
the same keys, and an object that is there already is known to hold these events.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from segsrv.journal.facts import Facts
from segsrv.sinks.base import Batch, Lines

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["zstd", "gzip", "none"]
SUFFIXES: dict[Compression, str] = {"zstd": ".ndjson.zst", "gzip": ".ndjson.gz", "none": ".ndjson"}
PARQUET_SUFFIX = ".parquet"

HOUR_MS = 3_600_000
ZSTD_LEVEL = 3
GZIP_LEVEL = 6


class Form(NamedTuple):
    """How objects look from outside, and what makes one of lines and their facts.

    `packed` blocks its thread, and raises NotConverted for what it will never take.
    """

    suffix: str
    content_type: str
    packed: Callable[[Sequence[Lines], Sequence[Facts]], bytes]


class Object(NamedTuple):
    key: str
    content: bytes
    content_type: str


def form_of(suffix: str) -> Form:
    """Return the form of objects whose keys end with *suffix*.

    Raises:
        ImportError: What makes such objects is not installed.
        KeyError: There are none.

    """
    if suffix == PARQUET_SUFFIX:
        form: Form = importlib.import_module("segsrv.sinks.s3.parquet").PARQUET
        return form
    return _NDJSON[suffix]


def objects_of(batch: Batch, prefix: str, form: Form) -> list[Object]:
    """Return the objects of *batch*, the largest first; *prefix* is empty or ends with a slash.

    An endpoint that takes no object as large as the first one has then taken none of the batch, and
    can refuse it. Events of which it is not known when they were received are of the hour 0, 1970.
    """
    facts = batch.facts
    times_ms = [fact.received_ms for fact in facts]
    first = min(times_ms)
    if first // HOUR_MS == max(times_ms) // HOUR_MS:
        key = _key(prefix, batch.id, first, form.suffix)
        return [Object(key, form.packed(batch.parts, facts), form.content_type)]
    by_hour: dict[int, list[int]] = {}
    for number, time_ms in enumerate(times_ms):
        by_hour.setdefault(time_ms // HOUR_MS, []).append(number)
    lines = batch.lines()
    objects = []
    for numbers in by_hour.values():
        own = [facts[number] for number in numbers]
        key = _key(prefix, batch.id, min(times_ms[number] for number in numbers), form.suffix)
        content = form.packed([lines[number] for number in numbers], own)
        objects.append(Object(key, content, form.content_type))
    return sorted(objects, key=lambda made: (-len(made.content), made.key))


def _key(prefix: str, batch_id: str, received_ms: int, suffix: str) -> str:
    seconds, ms = divmod(received_ms, 1_000)
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{prefix}{at:dt=%Y-%m-%d/hour=%H/%Y%m%dT%H%M%S}{ms:03d}Z-{batch_id}{suffix}"


def _zstd(parts: Sequence[Lines], _facts: Sequence[Facts]) -> bytes:
    compressor = zstd.ZstdCompressor(level=ZSTD_LEVEL)
    # Readers that want to know how much memory to take find it in the frame's head.
    compressor.set_pledged_input_size(sum(map(len, parts)))
    return b"".join([*map(compressor.compress, parts), compressor.flush()])


def _gzip(parts: Sequence[Lines], _facts: Sequence[Facts]) -> bytes:
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return b"".join([*map(compressor.compress, parts), compressor.flush()])


def _plain(parts: Sequence[Lines], _facts: Sequence[Facts]) -> bytes:
    return b"".join(parts)


_NDJSON = {
    form.suffix: form
    for form in (
        Form(SUFFIXES["zstd"], "application/zstd", _zstd),
        Form(SUFFIXES["gzip"], "application/gzip", _gzip),
        Form(SUFFIXES["none"], "application/x-ndjson", _plain),
    )
}
