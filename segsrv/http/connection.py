"""One client's connection: aiohttp's, with answers to broken HTTP in the form that SDKs read.

aiohttp reads what is left of a refused body for some seconds before it closes, so that the client
sees the answer and no reset. Of a compressed body that would be decompressed: two megabytes of it
can be a hundred gigabytes, which a few clients without a key could stall the server with.
"""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from segsrv.errors import BadRequest, SegsrvError
from segsrv.http import answers
from segsrv.http.body import CONTENT_ENCODING

logger = logging.getLogger(__name__)

MESSAGE_CHARS_MAX = 200


class Connection(RequestHandler):
    """Answers with JSON where aiohttp would with plain text, and never drains a compressed body.

    Some SDKs send again on an answer without JSON. No handler sees these requests: a head that is
    too long or no HTTP, a body whose framing or encoding is broken from its first bytes.
    """

    __slots__ = ()

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the answer, and hang up if a compressed body is still to come."""
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
            fault = BadRequest(f"the request can't be read: {reason}", code="bad_http")
        else:
            logger.error("request: failed by a fault of this server", exc_info=exc)
            fault = SegsrvError("a fault of this server; it is in its log")
        response = answers.error(fault)
        response.force_close()
        return response
