"""Requests whose heads nobody saw before: each comes from a forwarded address of its own."""

from __future__ import annotations

from itertools import count, cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NAME = b"X-Forwarded-For: "
ADDRESSES = 1 << 24
# Odd, so that all addresses come before one comes again; as in `wrk.lua`.
STEP = 6_700_417


def with_new_heads(
    requests: Iterable[bytes], start: int, user_agent: bytes = b""
) -> Iterator[bytes]:
    """Yield *requests* for ever, each from another of 2^24 addresses, counted from *start*.

    Where *user_agent* is given, it stands for a number of eight digits that changes as well.
    """
    cut = cycle([_cut(request, user_agent) for request in requests])
    for index in count():
        number = (start + index * STEP) % ADDRESSES
        address = b"81.%d.%d.%d" % (number >> 16, number >> 8 & 255, number & 255)
        agent = b"%08d" % number
        before, after = next(cut)
        yield agent.join(before) + address + agent.join(after)


def _cut(request: bytes, user_agent: bytes) -> tuple[list[bytes], list[bytes]]:
    """Part *request* where its address stands, and both parts where *user_agent* does.

    Raises:
        ValueError: It has no forwarded address.
    """
    at = request.index(NAME) + len(NAME)
    parts = request[:at], request[request.index(b"\r\n", at) :]
    before, after = (part.split(user_agent) if user_agent else [part] for part in parts)
    return before, after
