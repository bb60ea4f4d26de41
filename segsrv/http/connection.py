"""One client's connection: aiohttp's, with answers to broken HTTP in the form that SDKs read.

aiohttp reads what is left of a refused body for some seconds before it closes, so that the client
sees the answer and no reset. Of a compressed body that would be decompressed: two megabytes of it
can be a hundred gigabytes, which a few clients without a key could stall the server with.

Behind a request with `Upgrade` to a protocol that it does not know, aiohttp's parser drops what
else came in the same packet. Java's HttpClient asks for h2c with every request. segsrv upgrades to
nothing, so the parser is not shown the header: a server may ignore it (RFC 9110, 7.8).

A client may end its side of the connection behind its requests, and wait for the answers. aiohttp
closes the whole connection then.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from segsrv.errors import BadRequest, SegsrvError
from segsrv.http import responses
from segsrv.http.body import CONTENT_ENCODING
from segsrv.http.tally import Tally

logger = logging.getLogger(__name__)

MESSAGE_CHARS_MAX = 200
HEAD_PIECE_BYTES = 2 << 10
CHUNKS_MAX = 256
"""Of a body that wait to be read. A client can make them of a byte, 43,000 in a packet."""
UPGRADE_BYTES = len(b"\r\nupgrade")
UPGRADES_MAX = 256
"""Of those in a packet that are written in unusual letter cases; a change of one takes 0.7 us."""
_UPGRADE = re.compile(rb"(\r\nupgrad)e", re.IGNORECASE)
_UPGRADE_USUAL = (b"\r\nUpgrade", b"\r\nupgrade")


class Connection(RequestHandler):
    """Answers with JSON where aiohttp would with plain text, and never drains a compressed body.

    Some SDKs send again on an answer without JSON. No handler sees these requests: a head that is
    too long or no HTTP, a body whose framing or encoding is broken from its first bytes.
    """

    __slots__ = ("_is_half_closed", "_last_body", "_packet_end", "_tally")

    def __init__(self, manager: web.Server, *, tally: Tally, **options: Any) -> None:
        super().__init__(manager, **options)
        self._tally = tally
        # The last bytes of what came, where a header's name may have begun.
        self._packet_end = b""
        # Of the last request, whose rest may be missing when the client ends its side.
        self._last_body: StreamReader | None = None
        self._is_half_closed = False

    def data_received(self, data: bytes) -> None:
        """Parse what came, with a letter of `Upgrade` headers changed.

        A body could be hit too, but none that is stored: no line of JSON begins with a bare word.
        Its length stays, or its end would be taken for a request of the next client of a proxy.
        """
        # aiohttp calls this without data to go on after a pause.
        if data:
            begun = self._packet_end
            if b"\r" in begun and (found := _UPGRADE.search(begun + data[:UPGRADE_BYTES])):
                at = found.end() - len(begun) - 1
                data = data[:at] + b"_" + data[at + 1 :]
            end = data if len(data) >= UPGRADE_BYTES else begun + data
            self._packet_end = end[1 - UPGRADE_BYTES :]
            if _UPGRADE.search(data) is not None:
                for name in _UPGRADE_USUAL:
                    data = data.replace(name, name[:-1] + b"_")
                data = _UPGRADE.sub(rb"\1_", data, count=UPGRADES_MAX)
        start = 0
        while len(data) - start > 2 * HEAD_PIECE_BYTES and not self._is_in_body():
            # Where a body begins is known only when it has begun, and then it is bounded.
            self._parse(data[start : start + HEAD_PIECE_BYTES])
            start += HEAD_PIECE_BYTES
        self._parse(data[start:] if start else data)

    def _is_in_body(self) -> bool:
        return self._last_body is not None and not self._last_body.is_eof()

    def _parse(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages and self._messages[-1][1] is not self._last_body:
            body = self._last_body = self._messages[-1][1]
            if not body.is_eof():
                # aiohttp parses so many chunks at once, at 3 us each, until they are read.
                body._high_water_chunks = CHUNKS_MAX  # noqa: SLF001
                body._low_water_chunks = CHUNKS_MAX // 2  # noqa: SLF001

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection open for the answers to whole requests; True says so.

        Over TLS that can't be had: asyncio closes the connection whatever is said here.
        """
        if self.ssl_context is not None or self._is_half_closed:
            return self._is_half_closed
        messages, waiter, last_body = self._messages, self._waiter, self._last_body
        if last_body is None or (waiter is not None and not waiter.done()):
            # There is nothing to answer.
            return None
        if not last_body.is_eof():
            is_at_work = waiter is None and self._request_count > 1
            if not messages or messages[-1][1] is not last_body:
                return None
            if len(messages) == 1 and not is_at_work:
                return None
            # Half a request behind whole ones: the rest of it will never come.
            messages.pop()
        self._is_half_closed = True
        if not messages:
            # Behind the answer that is under way; otherwise `finish_response` finds the last.
            self.close()
        return True

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the answer, and hang up if a compressed body is still to come."""
        if isinstance(resp, Exception):
            # aiohttp's own answer: to an Expect header or a target that it does not know.
            fault = BadRequest(f"aiohttp answers {resp.status}", code="bad_http")
            fault.status = resp.status
            self._tally.refused(fault, "other", "", request.remote or "")
        if request.content.is_eof() or CONTENT_ENCODING not in request.headers:
            finished = await super().finish_response(request, resp, start_time)
            if self._is_half_closed and not self._messages:
                self.close()
            return finished
        resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        self.force_close()
        return finished

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer; the connection is closed behind it."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        fault: SegsrvError
        if status < 500:
            # aiohttp quotes the request below the first line.
            reason = (message or "").partition("\n")[0].rstrip(":")[:MESSAGE_CHARS_MAX]
            text = "the request can't be read"
            fault = BadRequest(f"{text}: {reason}", code="bad_http", log_text=text)
            self._tally.refused(fault, "other", "", request.remote or "")
        else:
            logger.error("request: failed by a fault of this server", exc_info=exc)
            fault = SegsrvError("a fault of this server; it is in its log")
            self._tally.counters.answers[fault.code, fault.status, "other", ""] += 1
        response = responses.error(fault)
        response.force_close()
        return response
