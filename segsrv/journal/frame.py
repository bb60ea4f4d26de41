"""One commit on disk: a header and the NDJSON lines of all requests that shared it.

    magic (4)  payload bytes (4)  events (4)  payload CRC-32 (4)  header CRC-32 (4)  payload

Numbers are little-endian. The header has a CRC of its own, so that a damaged payload can be stepped
over exactly. The magic begins with a NUL, which JSON text never contains, so a search for the next
frame can't be led astray by an event.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"\x00SJ1"
_HEADER = struct.Struct("<4sIII")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
PAYLOAD_BYTES_MAX = (1 << 32) - 1


@dataclass(slots=True, frozen=True)
class Frame:
    """A whole frame at *offset* of its buffer; `is_damaged` when its payload fails the CRC."""

    offset: int
    payload_start: int
    end: int
    events: int
    is_damaged: bool


@dataclass(slots=True, frozen=True)
class Gap:
    """Bytes from *offset* to *end* that are no frame, but that a whole frame follows."""

    offset: int
    end: int


def encode(payload: bytes, events: int) -> bytes:
    """Return the header for *payload*, which is written right after it."""
    head = _HEADER.pack(MAGIC, len(payload), events, zlib.crc32(payload))
    return head + _CRC.pack(zlib.crc32(head))


def payload_bytes(buffer: bytes | memoryview, offset: int) -> tuple[int, int, int] | None:
    """Return (payload bytes, events, payload CRC) if a sound header stands at *offset*."""
    end = offset + HEADER_BYTES
    if end > len(buffer):
        return None
    magic, size, events, crc = _HEADER.unpack_from(buffer, offset)
    if magic != MAGIC:
        return None
    if _CRC.unpack_from(buffer, offset + _HEADER.size)[0] != zlib.crc32(
        buffer[offset : offset + _HEADER.size]
    ):
        return None
    return size, events, crc


def scan(buffer: bytes) -> Iterator[Frame | Gap]:
    """Yield the frames of *buffer* in order, and the gaps between them.

    Ends at the first byte after the last whole frame; what follows there is a frame cut short, or
    damage with nothing whole behind it.
    """
    view = memoryview(buffer)
    offset = 0
    while offset < len(buffer):
        header = payload_bytes(view, offset)
        if header is None:
            found = _next_header(buffer, offset + 1)
            if found is None:
                return
            yield Gap(offset, found)
            offset = found
            continue
        size, events, crc = header
        start = offset + HEADER_BYTES
        end = start + size
        if end > len(buffer):
            return
        yield Frame(offset, start, end, events, is_damaged=zlib.crc32(view[start:end]) != crc)
        offset = end


def _next_header(buffer: bytes, offset: int) -> int | None:
    while (offset := buffer.find(MAGIC, offset)) >= 0:
        if payload_bytes(buffer, offset) is not None:
            return offset
        offset += 1
    return None
