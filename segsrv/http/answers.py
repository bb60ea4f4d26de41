"""What segsrv answers, in the forms that every Segment SDK understands.

Success is exactly 200 with a JSON object: some SDKs resend on 201, 202 and 204, and some on a body
that is no JSON object. Errors carry `code` and `message` (Python up to 2.3.4 looks for them) and
`error` (Ruby does).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from types import MappingProxyType
from typing import Any

import orjson
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDict

from segsrv.errors import SegsrvError, Unavailable

SERVER = "segsrv"
OK_BODY = b'{"status":"ok"}'
DELETE_COOKIE_BODY = b'{"status":"ok","delete_cookie":true}'
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
NO_DETAILS: Mapping[str, Any] = MappingProxyType({})
_JSON = "application/json"


def ok(body: bytes = OK_BODY, headers: Mapping[str, str] = NO_HEADERS) -> web.Response:
    return web.Response(body=body, content_type=_JSON, headers={"Server": SERVER, **headers})


class Refusal(web.Response):
    """The answer to an error of the tree, with what those who count answers need to know of it.

    It must not hold the error: that holds the frames it passed through, and one of them this answer
    and the request's body, until the garbage collector comes by.
    """

    def __init__(self, fault: SegsrvError, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(status=fault.status, body=body, content_type=_JSON, headers=headers)
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
    message = str(fault)
    headers = {"Server": SERVER, **headers}
    if isinstance(fault, Unavailable):
        # Both names and whole seconds: browsers up to 1.83 read the second, most others the first.
        headers["Retry-After"] = headers["X-RateLimit-Reset"] = str(retry_after_s)
    body = {"status": "error", "code": fault.code, "message": message, "error": message, **details}
    return Refusal(fault, orjson.dumps(body), headers)


class _RenderedHead:
    """The success answer up to its last headers, rendered again when its `Date` is over."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._rendered = b""

    def __call__(self) -> bytes:
        now_s = time.time()
        if now_s >= self._until_s:
            self._until_s = int(now_s) + 1.0
            self._rendered = (
                b"HTTP/1.1 200 OK\r\n"
                b"Content-Type: application/json\r\n"
                b"Content-Length: %d\r\nDate: %s\r\nServer: %s\r\n"
                % (
                    len(OK_BODY),
                    formatdate(now_s, usegmt=True).encode(),
                    SERVER.encode(),
                )
            )
        return self._rendered


class RenderedOk(web.StreamResponse):
    """The success answer as one write of prepared bytes.

    aiohttp spends a third of its time for a small request on building headers. This skips that, so
    it must be used only where nobody else wants a say in them: see `can_be_rendered`.
    """

    _render = _RenderedHead()
    _status = 200
    _reason = "OK"
    _body_length = len(OK_BODY)
    _keep_alive = True

    def __init__(self, tail: bytes = b"\r\n" + OK_BODY) -> None:
        """Take what follows the common headers: further header lines, an empty one, the body.

        The base class's fields are not made: only `headers` could be asked for, by an access log.
        """
        self._tail = tail

    @property
    def headers(self) -> CIMultiDict[str]:
        return CIMultiDict({"Content-Type": _JSON, "Content-Length": str(len(OK_BODY))})

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        transport = request.transport
        if transport is not None and not self._eof_sent:
            transport.write(self._render() + self._tail)
        self._eof_sent = True
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` wrote the whole answer."""


def rendered_tail(headers: Mapping[str, str]) -> bytes:
    """Render *headers* and the body for `RenderedOk`; their values must hold no line end."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return lines.encode("latin-1", "replace") + b"\r\n" + OK_BODY


def can_be_rendered(request: web.Request) -> bool:
    """Say whether this request's answer may be `RenderedOk`.

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
