"""Journals as the first releases wrote them."""

import struct
import zlib
from pathlib import Path

MAGIC_1 = b"\x00SJ1"


def framed_1(payload: bytes, events: int = 1) -> bytes:
    """Return a frame with the header of the first releases."""
    head = struct.pack("<4sIII", MAGIC_1, len(payload), events, zlib.crc32(payload))
    return head + struct.pack("<I", zlib.crc32(head)) + payload


def write_old_segment(directory: Path, base: int, payloads: list[bytes]) -> int:
    """Write a segment of one frame a payload; return the position behind it."""
    directory.mkdir(parents=True, exist_ok=True)
    data = b"".join(framed_1(payload, payload.count(b"\n")) for payload in payloads)
    (directory / f"{base:020d}.journal").write_bytes(data)
    return base + len(data)
