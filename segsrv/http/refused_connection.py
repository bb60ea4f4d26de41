"""A connection above the limit: it is told so, and that is all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import cast

from segsrv.errors import Overloaded

REFUSAL_WAIT_S = 1.0


class RefusedConnection(asyncio.Protocol):
    """Answers before anything is read, and waits a moment for the client to close.

    Closing at once, with the client's request unread, would reset the connection, and the answer
    might be lost. Only *waiting_max* wait at a time, so that a flood of clients takes no more
    files.
    """

    _waiting = 0

    def __init__(self, answer: bytes, count: Callable[[str], None], *, waiting_max: int) -> None:
        self._answer = answer
        self._waiting_max = waiting_max
        self._count = count
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        transport = cast("asyncio.Transport", transport)
        transport.write(self._answer)
        peer = transport.get_extra_info("peername")
        self._count(str(peer[0]) if isinstance(peer, tuple) else "")
        if RefusedConnection._waiting >= self._waiting_max or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        RefusedConnection._waiting += 1
        self._timer = asyncio.get_running_loop().call_later(REFUSAL_WAIT_S, transport.abort)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            RefusedConnection._waiting -= 1


def refusal_text(fault: Overloaded, retry_after_s: int) -> bytes:
    """Return the whole 503 answer, as bytes of HTTP."""
    text = str(fault)
    body = json.dumps(
        {"status": "error", "code": fault.code, "message": text, "error": text}
    ).encode()
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\nRetry-After: %d\r\nX-RateLimit-Reset: %d\r\n"
        b"Connection: close\r\n\r\n%s" % (len(body), retry_after_s, retry_after_s, body)
    )
