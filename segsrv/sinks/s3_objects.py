"""The objects that a batch becomes: one for each hour in which its events were received.

    dt=2026-11-25/hour=09/20261125T091502123Z-<batch id>.ndjson.zst

A key follows from the batch's id and its events alone. So when the batch comes again, it asks for
the same keys, and an object that is there already is known to hold these events.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from segsrv.sinks.base import Batch, Lines

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["zstd", "gzip", "none"]

HOUR_MS = 3_600_000
ZSTD_LEVEL = 3
GZIP_LEVEL = 6
NDJSON_TYPE = "application/x-ndjson"


class Piece(NamedTuple):
    """The events of one object; `received_ms` is the first time at which one was received."""

    received_ms: int
    events: int
    parts: Sequence[Lines]

    @property
    def size(self) -> int:
        """Bytes before compression."""
        return sum(map(len, self.parts))


class Form(NamedTuple):
    """How an object's content looks from outside."""

    suffix: str
    content_type: str


FORMS: dict[Compression, Form] = {
    "zstd": Form(".ndjson.zst", "application/zstd"),
    "gzip": Form(".ndjson.gz", "application/gzip"),
    "none": Form(".ndjson", NDJSON_TYPE),
}


def pieces_of(batch: Batch) -> list[Piece]:
    """Return what becomes an object each, the largest first.

    An endpoint that takes no object as large as the first one has then taken none of the batch, and
    can refuse it. Events of which it is not known when they were received are of the hour 0, 1970.
    """
    times = [facts.received_ms for facts in batch.facts]
    first = min(times)
    if first // HOUR_MS == max(times) // HOUR_MS:
        return [Piece(first, batch.events, batch.parts)]
    by_hour: dict[int, list[int]] = {}
    for number, received_ms in enumerate(times):
        by_hour.setdefault(received_ms // HOUR_MS, []).append(number)
    lines = batch.lines()
    pieces = [
        Piece(
            min(times[number] for number in numbers),
            len(numbers),
            [lines[number] for number in numbers],
        )
        for numbers in by_hour.values()
    ]
    return sorted(pieces, key=lambda piece: (-piece.size, piece.received_ms))


def key_of(prefix: str, batch_id: str, received_ms: int, suffix: str) -> str:
    """Return the key of a batch's object; *prefix* is empty or ends with a slash."""
    seconds, ms = divmod(received_ms, 1_000)
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{prefix}{at:dt=%Y-%m-%d/hour=%H/%Y%m%dT%H%M%S}{ms:03d}Z-{batch_id}{suffix}"


def packed(piece: Piece, compression: Compression) -> bytes:
    """Return the content of the object of *piece*."""
    match compression:
        case "zstd":
            compressor = zstd.ZstdCompressor(level=ZSTD_LEVEL)
            # Readers that want to know how much memory to take find it in the frame's head.
            compressor.set_pledged_input_size(piece.size)
            return _joined([*map(compressor.compress, piece.parts), compressor.flush()])
        case "gzip":
            stream = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
            return _joined([*map(stream.compress, piece.parts), stream.flush()])
        case "none":
            return _joined(piece.parts)


def _joined(pieces: Iterable[Lines]) -> bytes:
    return b"".join(pieces)
