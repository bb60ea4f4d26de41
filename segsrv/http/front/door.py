"""The front door: takes the requests that SDKs send all day from the bytes of a connection.

A POST to an ingest path with a plain head goes to `Ingest` without a task, a future or a request
object of its own. For everything else a guest is let in: aiohttp's side of the connection. A guest
that is given one whole request of a plain form leaves when that is answered. Another stays for
good: for what is framed in another way, broken, or not whole within a moment, it has the rules,
the limits and the answers. The door stands between it and the transport then, and passes all on.

Reading pauses while there is something that can't be taken yet: while a guest works, while the
client does not read its answers, and while many of its requests are under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

from aiohttp.tcp_helpers import tcp_keepalive

from segsrv.errors import Overloaded
from segsrv.http.front import limits
from segsrv.http.front.body import Body
from segsrv.http.front.exchange import Exchange
from segsrv.http.front.heads import HEAD_BYTES_MAX, POST, Visit
from segsrv.http.front.moving_timer import MovingTimer

if TYPE_CHECKING:
    from segsrv.http.caller import Caller
    from segsrv.http.front.front import Front
    from segsrv.http.front.guest import Guest


class Door(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        *("_body", "_ended", "_exchanges", "_front", "_guest", "_has_large", "_idle"),
        *("_is_closing", "_is_guest_staying", "_is_half_closed", "_is_held", "_is_waiting"),
        *("_is_working", "_is_writing_paused", "_loop", "_needs_quiet", "_peer", "_rest", "_slow"),
        "_transport",
    )

    def __init__(self, front: Front) -> None:
        self._front = front
        self._loop = front.loop
        self._transport: asyncio.Transport | None = None
        self._peer = b""
        # Requests under way, in the order of their coming.
        self._exchanges: deque[Exchange] = deque()
        self._has_large = False
        # Bytes that were read and not used yet.
        self._rest = b""
        self._body: Body | None = None
        # `_rest` has to wait, until no request is under way if it needs that.
        self._is_held = False
        self._needs_quiet = False
        self._guest: Guest | None = None
        self._is_guest_staying = False

        self._is_working = False
        self._is_writing_paused = False
        self._is_half_closed = False
        self._is_closing = False
        self._ended: asyncio.Future[None] | None = None
        # For the rest of a request that is begun.
        self._is_waiting = False
        self._slow = MovingTimer(self._loop, front.slow_s, self._on_slow)
        self._idle = MovingTimer(self._loop, front.idle_s, self._on_idle)

    # What the loop says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        tcp_keepalive(transport)
        peer = transport.get_extra_info("peername")
        if peer is not None:
            text = str(peer[0]) if isinstance(peer, tuple | list) else str(peer)
            self._peer = text.encode("utf-8", "surrogateescape")
        self._front.made(self, transport)
        self._idle.start()

    def data_received(self, data: bytes) -> None:
        if self._is_guest_staying:
            assert self._guest is not None
            self._guest.data_received(data)
        elif self._body is not None:
            self._receive(self._body, data)
        elif self._is_held:
            # A guest may have resumed reading.
            self._rest += data
            self._pause_reading()
        elif self._rest:
            data, self._rest = self._rest + data, b""
            self._work(data)
        else:
            self._work(data)

    def eof_received(self) -> bool | None:
        """Keep the connection open for the answers to whole requests; True says so.

        Over TLS that can't be had: asyncio closes the connection whatever is said here.
        """
        transport = self._transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return None
        if self._is_guest_staying:
            assert self._guest is not None
            return self._guest.eof_received()
        self._is_half_closed = True
        # The rest of a body will never come.
        self._forget_body()
        if not self._exchanges and self._guest is None and not self._rest:
            return None
        self._settle()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._front.lost(self)
        self._transport = None
        self._forget_body()
        self._rest = b""
        self._idle.stop()
        self._slow.stop()
        if self._guest is not None:
            self._guest.connection_lost(error)
        self._end()

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        if self._guest is not None:
            self._guest.pause_writing()
        else:
            self._pause_reading()

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._guest is not None:
            if self._guest.writing_paused:
                self._guest.resume_writing()
            return
        if not self._is_held:
            self._resume_reading()
        self._settle()

    # What the server says; it knows this connection as one of aiohttp's.

    @property
    def _task_handler(self) -> asyncio.Task[None] | None:
        """The task whose end is waited for when the connection is lost."""
        return None if self._guest is None else self._guest.task

    def close(self) -> None:
        """Take nothing more; what is under way is answered, and then the connection closes."""
        self._is_closing = True
        if self._guest is not None:
            self._guest.close()
        else:
            self._settle()

    async def shutdown(self, timeout_s: float | None = None) -> None:
        """Close, and wait so long for the answers that are under way."""
        self.close()
        if self._guest is not None:
            await self._guest.shutdown(timeout_s)
        elif self._transport is not None and not self._transport.is_closing():
            self._ended = self._loop.create_future()
            await asyncio.wait([self._ended], timeout=timeout_s)
        if self._transport is not None:
            self._transport.close()

    # What comes in.

    def _work(self, data: bytes) -> None:
        """Take all requests that *data* has, as far as that can be done now."""
        self._is_working, began_s = True, limits.clock()
        try:
            start = requests = 0
            while start < len(data):
                start = self._work_on(data, start)
                requests += 1
                if start < len(data) and limits.is_enough(start, requests, began_s):
                    self._hold(data[start:])
                    self._loop.call_soon(self._settle)
                    break
        finally:
            self._is_working = False

    def _work_on(self, data: bytes, start: int) -> int:
        """Take the request that begins at *start*; return where the next one does."""
        size, is_full = len(data), len(self._exchanges) >= limits.REQUESTS_MAX
        if self._is_writing_paused or self._is_closing or is_full or self._has_large:
            self._hold(data[start:], needs_quiet=self._has_large)
            return size
        end = data.find(b"\r\n\r\n", start)
        if end < 0:
            begun = data[start : start + len(POST)]
            if size - start > HEAD_BYTES_MAX or not POST.startswith(begun):
                self._let_in(data[start:])
            else:
                self._rest = data[start:]
                self._wait(is_same=start == 0)
            return size
        found = self._front.heads.find(self._peer, data, start, end)
        if found is None:
            self._let_in(data[start:])
            return size
        caller, body_bytes = found
        body_start = end + 4
        stop = body_start + body_bytes
        if stop > size:
            is_small = body_bytes <= limits.VISIT_BYTES_MAX
            if isinstance(caller, Visit) and not (caller.is_welcome and is_small):
                self._let_in(data[start:])
                return size
            receiving = self._front.receiving
            self._body = Body(receiving, caller, data[start:body_start], body_bytes)
            self._wait(is_same=start == 0)
            self._receive(self._body, data[body_start:])
            return size
        self._is_waiting = False
        if isinstance(caller, Visit):
            self._let_visit(data[start:stop], data[stop:])
            return size
        self._take(caller, data[body_start:stop])
        return stop

    def _take(self, caller: Caller, body: bytes) -> None:
        self._has_large |= len(body) > limits.LARGE_BYTES
        exchange = Exchange(self)
        self._exchanges.append(exchange)
        self._front.take(caller, body, exchange.give)

    def _receive(self, body: Body, data: bytes) -> None:
        missing = body.missing_bytes
        if len(data) < missing:
            try:
                body.add(data)
            except Overloaded:
                # A guest finds the same, and says so.
                self._let_in(self._unused())
            return
        rest = data[missing:]
        whole = body.whole(data[:missing] if rest else data)
        self._body = None
        self._is_waiting = False
        if isinstance(body.caller, Visit):
            self._let_visit(body.head + whole, rest)
            return
        self._take(body.caller, whole)
        self._work(rest)

    def _unused(self) -> bytes:
        """Return all bytes of a request that is begun, and forget them."""
        data, self._rest = self._rest, b""
        if self._body is not None:
            data = self._body.unused()
            self._body = None
        return data

    def _forget_body(self) -> None:
        if self._body is not None:
            self._unused()

    # What has to wait.

    def _hold(self, rest: bytes, *, needs_quiet: bool = False) -> None:
        self._rest = rest
        self._is_held = True
        self._needs_quiet = needs_quiet
        self._pause_reading()

    def _settle(self) -> None:
        """Do what had to wait and need not any more."""
        transport = self._transport
        if transport is None or self._guest is not None or self._is_working:
            return
        is_quiet = not self._exchanges and self._body is None
        if self._is_closing:
            if is_quiet:
                transport.close()
                self._end()
            return
        can_go_on = (
            is_quiet if self._needs_quiet else len(self._exchanges) <= limits.REQUESTS_MAX // 2
        )
        if self._is_held and can_go_on and not self._is_writing_paused:
            self._is_held = self._needs_quiet = False
            rest, self._rest = self._rest, b""
            self._work(rest)
            if not self._is_held:
                self._resume_reading()
        if self._is_half_closed and not self._is_held and self._guest is None:
            self._forget_body()
            if self._exchanges:
                return
            if self._rest:
                self._let_in(self._unused())
            else:
                transport.close()

    def _wait(self, *, is_same: bool) -> None:
        """Wait for the rest of a request, *is_same* if that is what has been waited for."""
        if not (self._is_waiting and is_same):
            self._is_waiting = True
            self._slow.since_s = self._loop.time()
        self._slow.start()

    def _on_slow(self) -> bool:
        if not self._is_waiting or self._guest is not None:
            return False
        if self._exchanges or self._is_held or self._is_closing:
            return True
        self._let_in(self._unused())
        return False

    def _on_idle(self) -> bool:
        transport = self._transport
        if transport is None or self._is_guest_staying:
            return False
        if self._exchanges or self._is_held or self._body is not None:
            return True
        transport.close()
        return False

    def _pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        guest, transport = self._guest, self._transport
        must_wait = self._is_writing_paused if guest is None else guest.is_reading_paused
        if must_wait or self._is_half_closed or transport is None or transport.is_closing():
            return
        transport.resume_reading()

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # Answers and guests.

    def answered(self) -> None:
        """Write the answers that are there, in the order of the requests."""
        exchanges, transport = self._exchanges, self._transport
        while exchanges and (answer := exchanges[0].answer) is not None:
            exchanges.popleft()
            if transport is not None and not transport.is_closing():
                is_last = self._is_closing and not exchanges and self._body is None
                transport.write(answer.render(is_last=is_last))
        if not exchanges:
            self._has_large = False
            self._idle.since_s = self._loop.time()
        if self._is_held or self._is_half_closed or self._is_closing:
            self._settle()

    def _let_visit(self, request: bytes, rest: bytes) -> None:
        """Have a guest answer one whole request, when all before it are answered."""
        if self._exchanges:
            self._hold(request + rest, needs_quiet=True)
            return
        self._hold(rest)
        guest = self._welcome()
        guest.is_reading_held = True
        guest.data_received(request)

    def guest_answered(self, *, can_leave: bool) -> None:
        """Go on without the guest, or with it if there is more that it has to do."""
        assert self._guest is not None
        if self._is_guest_staying:
            return
        if can_leave:
            self._guest.leave()
            self._guest = None
            self._idle.since_s = self._loop.time()
            self._settle()
        else:
            rest, self._rest = self._rest, b""
            self._stay(self._guest, rest)

    def _let_in(self, data: bytes) -> None:
        """Let a guest have all from here on, when what came before is answered."""
        if self._exchanges:
            self._hold(data, needs_quiet=True)
            return
        self._stay(self._welcome(), data)

    def _welcome(self) -> Guest:
        assert self._transport is not None
        self._guest = guest = self._front.guest(self.guest_answered)
        guest.connection_made(self._transport)
        if self._is_writing_paused:
            guest.pause_writing()
        return guest

    def _stay(self, guest: Guest, data: bytes) -> None:
        self._is_guest_staying = True
        self._is_held = self._is_waiting = guest.is_reading_held = False
        self._resume_reading()
        if data:
            guest.data_received(data)
        if self._is_half_closed and not guest.eof_received() and self._transport is not None:
            self._transport.close()
