"""Answers as aiohttp's responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDict

from segsrv.errors import SegsrvError
from segsrv.http import answers
from segsrv.http.answers import JSON, NO_DETAILS, NO_HEADERS, OK_BODY, SERVER, Answer


def ok(body: bytes = OK_BODY, headers: Mapping[str, str] = NO_HEADERS) -> web.Response:
    return web.Response(body=body, content_type=JSON, headers={"Server": SERVER, **headers})


class Refusal(web.Response):
    """The answer to an error of the tree, with what those who count answers need to know of it.

    It must not hold the error: that holds the frames it passed through, and one of them this answer
    and the request's body, until the garbage collector comes by.
    """

    def __init__(self, fault: SegsrvError, answer: Answer) -> None:
        super().__init__(
            status=answer.status,
            body=answer.body,
            content_type=JSON,
            headers={"Server": SERVER, **answer.headers},
        )
        self.code = fault.code
        self.log_text = fault.log_text


def error(
    fault: SegsrvError,
    headers: Mapping[str, str] = NO_HEADERS,
    *,
    retry_after_s: int = 5,
    details: Mapping[str, Any] = NO_DETAILS,
) -> Refusal:
    """Turn an error of the tree into its answer; *details* become further fields of it."""
    answer = answers.refusal(fault, headers, retry_after_s=retry_after_s, details=details)
    return Refusal(fault, answer)


def response_of(answer: Answer, request: web.Request, *, is_rendered: bool) -> web.StreamResponse:
    """Return *answer* for aiohttp to send; `is_rendered` says that nobody wants a say in it."""
    if is_rendered and answer.tail is not None and _can_be_rendered(request):
        return _Rendered(answer)
    return web.Response(
        status=answer.status,
        body=answer.body,
        content_type=JSON,
        headers={"Server": SERVER, **answer.headers},
    )


class _Rendered(web.StreamResponse):
    """An answer as one write of prepared bytes.

    aiohttp spends a third of its time for a small request on building headers. This skips that, so
    it must be used only where nobody else wants a say in them.
    """

    _status = 200
    _reason = "OK"
    _body_length = len(OK_BODY)
    _keep_alive = True

    def __init__(self, answer: Answer) -> None:
        """Take the plain success.

        The base class's fields are not made: only `headers` could be asked for, by an access log.
        """
        self._answer = answer

    @property
    def headers(self) -> CIMultiDict[str]:
        return CIMultiDict({"Content-Type": JSON, "Content-Length": str(len(OK_BODY))})

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        transport = request.transport
        if transport is not None and not self._eof_sent:
            transport.write(self._answer.render())
        self._eof_sent = True
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` wrote the whole answer."""


def _can_be_rendered(request: web.Request) -> bool:
    """Say whether this request's answer may be one write of prepared bytes.

    Only for HTTP/1.1 with keep-alive, and not while the client is slow to read its answers: the
    ordinary response waits for it then, which keeps memory bounded.
    """
    return (
        request.version == HttpVersion11
        and request.keep_alive
        and not request.protocol.writing_paused
    )


def has_outer_layers(request: web.Request) -> bool:
    """Say whether an outer application's middlewares or signals may want to change answers."""
    return any(app.middlewares or app.on_response_prepare for app in request.match_info.apps)
