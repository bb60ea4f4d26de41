"""One client's connection: aiohttp's, with answers to broken HTTP in the form that SDKs read.

aiohttp reads what is left of a refused body for some seconds before it closes, so that the client
sees the answer and no reset. Of a compressed body that would be decompressed: two megabytes of it
can be a hundred gigabytes, which a few clients without a key could stall the server with.
"""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from segsrv.errors import BadRequest, SegsrvError
from segsrv.http import answers
from segsrv.http.body import CONTENT_ENCODING
from segsrv.http.tally import Tally

logger = logging.getLogger(__name__)

MESSAGE_CHARS_MAX = 200


class Connection(RequestHandler):
    """Answers with JSON where aiohttp would with plain text, and never drains a compressed body.

    Some SDKs send again on an answer without JSON. No handler sees these requests: a head that is
    too long or no HTTP, a body whose framing or encoding is broken from its first bytes.
    """

    __slots__ = ("_tally",)

    def __init__(self, server: web.Server, *, tally: Tally, **options: Any) -> None:
        super().__init__(server, **options)
        self._tally = tally

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
            return await super().finish_response(request, resp, start_time)
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
        response = answers.error(fault)
        response.force_close()
        return response
