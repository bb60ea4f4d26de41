"""What one connection may have under way at the front door."""

from __future__ import annotations

import time

clock = time.perf_counter

REQUESTS_MAX = 32
"""Of one connection that are under way; as many as aiohttp lets wait."""
LARGE_BYTES = 16 << 10
"""While a larger body is under way, nothing behind it is taken: they would add up in memory."""
WORK_BYTES_MAX = 64 << 10
WORK_REQUESTS_MAX = 32
WORK_S = 0.002
"""Of one connection are worked on in a row; then the loop serves the others."""
VISIT_BYTES_MAX = 128 << 10
"""A larger body is not waited for on a guest's behalf, who reads it in pieces that he lets go."""


def is_enough(size: int, requests: int, began_s: float) -> bool:
    """Say whether so many bytes and requests, since *began_s* of `clock`, are enough in a row."""
    return size >= WORK_BYTES_MAX or requests >= WORK_REQUESTS_MAX or clock() - began_s >= WORK_S
