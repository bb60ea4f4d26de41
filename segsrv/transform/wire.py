"""What a server and its transforming child say to each other: frames of a head and a body.

A frame is two lengths of 4 bytes, little-endian, a head of JSON, and a body of NDJSON.

To the child goes first what it is to load, with an empty body, and it answers `{"files": [...]}` or
`{"error": text}`. Then each request's head has one `[key id, format, received ms, type, length,
event id]` an event, and its body their lines. The answer comes in pieces: the head is
`{"outcomes": [...]}` with one outcome for each of the next events, the body the lines that are
named in them. Only the last one has `"is_spent"`, which says whether the child has used so much
memory that it should be replaced. An outcome is

    0                              unchanged
    [[event id, type, length]...]  what it became; none if it was dropped
    {"message": ..., "traceback": ...}   set aside
"""

from __future__ import annotations

import struct
from typing import Any

import orjson

LENGTHS = struct.Struct("<II")
PROGRESS = struct.Struct("<Q")
"""In memory that both see: the number of the event that is being worked at, from 1; 0 for none."""
UNCHANGED = 0
HEAD_BYTES_MAX = 64 << 20
BODY_BYTES_MAX = 512 << 20
MEMORY_STATUS = 77
"""What a child exits with that ran out of the memory it may take."""


def frame(head: Any, body: bytes = b"") -> bytes:
    """Return a whole frame."""
    encoded = orjson.dumps(head)
    return LENGTHS.pack(len(encoded), len(body)) + encoded + body
