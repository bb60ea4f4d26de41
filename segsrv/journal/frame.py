r"""One commit on disk: the NDJSON lines of all requests that shared it, and their events' facts.

    header   magic "\0SJ2" (4)  facts bytes (4)  payload bytes (4)  events (4)  CRC (4)  own CRC (4)
    facts    JSON, see `facts.py`; may be empty
    payload  whole lines
    trailer  as the header, with the magic "\0SJ3"

Numbers are little-endian. The CRC-32 is that of facts and payload in one; header and trailer have
one of their own, and each says where the frame begins and ends, so that one of the two suffices.
All magics begin with a NUL, which JSON text never contains, so a search for the next frame can't be
led astray by an event. Journals of the first releases have the header

    magic "\0SJ1" (4)  payload bytes (4)  events (4)  payload CRC (4)  own CRC (4)

and neither facts nor trailer; they are read as they are.

What a crash left is told from damage where that is possible:
- A frame with whole frames behind it was on stable storage before they were written, so what is
  wrong with it is damage. (Under durability `write` a power cut can also do that.)
- The last bytes of a file are torn when the header says that more should follow, when less than a
  header is there, or when a block of 4 KiB, or the part of one, reads as zeros: blocks that a power
  cut kept from the disk do. All else is damage: a flipped bit in header or trailer costs nothing,
  in facts or payload it costs the frame.
- Zeros up to the end of a file are room that was made ahead, see `log.py`.
- What can't be told: damage that cut a file short or filled blocks with zeros looks like a torn
  tail or like room, and a commit that the disk refused and that could not be taken back looks like
  one that it took.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from segsrv.journal.crc import crc32

MAGIC = b"\x00SJ2"
MAGIC_END = b"\x00SJ3"
MAGIC_1 = b"\x00SJ1"
_MAGIC_START = b"\x00SJ"
_HEADER = struct.Struct("<4sIIII")
_HEADER_1 = struct.Struct("<4sIII")
_CRC = struct.Struct("<I")
HEADER_BYTES = TRAILER_BYTES = _HEADER.size + _CRC.size
HEADER_BYTES_1 = _HEADER_1.size + _CRC.size
OVERHEAD_BYTES = HEADER_BYTES + TRAILER_BYTES
BLOCK_BYTES = 4_096

Buffer = bytes | memoryview


class Mark(NamedTuple):
    """What a sound header or trailer says: offsets in its buffer, event count and CRC."""

    start: int
    facts_start: int
    payload_start: int
    payload_end: int
    end: int
    events: int
    crc: int


class Frame(NamedTuple):
    """A frame at *offset* of its buffer; `is_damaged` when its contents fail the CRC."""

    offset: int
    facts_start: int
    payload_start: int
    payload_end: int
    end: int
    events: int
    is_damaged: bool


class Gap(NamedTuple):
    """Bytes from *offset* to *end* that are no frame, but that a header or a frame follows."""

    offset: int
    end: int


def encode(payload: bytes, events: int, facts: bytes = b"") -> tuple[bytes, bytes]:
    """Return header and trailer; facts and payload are written between them."""
    crc = crc32(payload, crc32(facts))
    head = _HEADER.pack(MAGIC, len(facts), len(payload), events, crc)
    tail = MAGIC_END + head[len(MAGIC_END) :]
    return head + _CRC.pack(crc32(head)), tail + _CRC.pack(crc32(tail))


def frame_bytes(payload: bytes, facts: bytes = b"") -> int:
    """Return how long the frame is on disk."""
    return OVERHEAD_BYTES + len(facts) + len(payload)


def header_at(buffer: Buffer, offset: int) -> Mark | None:
    """Return what the header at *offset* says, or None where no sound one stands."""
    fields = _sound(buffer, offset, _HEADER, MAGIC)
    if fields is not None:
        _magic, facts_bytes, payload_bytes, events, crc = fields
        facts_start = offset + HEADER_BYTES
        payload_start = facts_start + facts_bytes
        payload_end = payload_start + payload_bytes
        end = payload_end + TRAILER_BYTES
        return Mark(offset, facts_start, payload_start, payload_end, end, events, crc)
    fields = _sound(buffer, offset, _HEADER_1, MAGIC_1)
    if fields is not None:
        _magic, payload_bytes, events, crc = fields
        start = offset + HEADER_BYTES_1
        return Mark(offset, start, start, start + payload_bytes, start + payload_bytes, events, crc)
    return None


def trailer_at(buffer: Buffer, offset: int) -> Mark | None:
    """Return what the trailer at *offset* says; its frame may begin before the buffer does."""
    fields = _sound(buffer, offset, _HEADER, MAGIC_END)
    if fields is None:
        return None
    _magic, facts_bytes, payload_bytes, events, crc = fields
    payload_start = offset - payload_bytes
    facts_start = payload_start - facts_bytes
    start = facts_start - HEADER_BYTES
    return Mark(start, facts_start, payload_start, offset, offset + TRAILER_BYTES, events, crc)


def scan(buffer: bytes, offset: int = 0) -> Iterator[Frame | Gap]:
    """Yield the frames of *buffer* from *offset* on in order, and the gaps between them.

    Ends at the first byte that can't be told: what follows is a frame cut short, or damage with
    nothing sound behind it.
    """
    view = memoryview(buffer)
    while offset < len(buffer):
        mark = header_at(view, offset)
        if mark is None:
            mark = _next_mark(buffer, view, offset)
            if mark is None:
                return
            if mark.start > offset:
                yield Gap(offset, mark.start)
        if mark.end > len(buffer):
            return
        start, facts_start, payload_start, payload_end, offset, events, crc = mark
        is_damaged = crc32(view[facts_start:payload_end]) != crc
        yield Frame(start, facts_start, payload_start, payload_end, offset, events, is_damaged)


def written_bytes(buffer: bytes) -> int:
    """Return how much of *buffer*, the last bytes of a file, was written; zeros follow.

    A trailer that stands at the end may itself end with zeros.
    """
    used = len(buffer.rstrip(b"\0"))
    for end in range(max(used, TRAILER_BYTES), min(used + TRAILER_BYTES, len(buffer) + 1)):
        if trailer_at(buffer, end - TRAILER_BYTES) is not None:
            return end
    return used


def is_torn(rest: Buffer, position: int) -> bool:
    """Say whether a crash may have left *rest*, the last bytes of a file, from *position* in it."""
    view = memoryview(rest)
    mark = header_at(view, 0)
    if mark is not None and mark.end > len(view):
        return True
    if len(view) < HEADER_BYTES and MAGIC.startswith(bytes(view[: len(MAGIC)])):
        return True
    # The first byte of a magic is always zero.
    start = 1
    while start < len(view):
        end = min(start + BLOCK_BYTES - (position + start) % BLOCK_BYTES, len(view))
        if not any(view[start:end]):
            return True
        start = end
    return False


def _next_mark(buffer: bytes, view: memoryview, offset: int) -> Mark | None:
    """Return the first sound header behind *offset*, or trailer of a frame from there on."""
    found = offset
    while (found := buffer.find(_MAGIC_START, found + 1)) >= 0:
        mark = header_at(view, found)
        if mark is not None:
            return mark
        mark = trailer_at(view, found)
        if mark is not None and mark.start >= offset:
            return mark
    return None


def _sound(
    buffer: Buffer, offset: int, layout: struct.Struct, magic: bytes
) -> tuple[Any, ...] | None:
    end = offset + layout.size
    if end + _CRC.size > len(buffer) or buffer[offset : offset + len(magic)] != magic:
        return None
    if _CRC.unpack_from(buffer, end)[0] != crc32(buffer[offset:end]):
        return None
    return layout.unpack_from(buffer, offset)
