"""What segsrv answers to events, in the form that every Segment SDK understands.

Success is exactly 200 with a JSON object: some SDKs resend on 201, 202 and 204, and some on a body
that is no JSON object. Errors carry `code` and `message` (Python up to 2.3.4 looks for them) and
`error` (Ruby does).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import orjson

from segsrv.errors import RateLimited, SegsrvError, Unavailable

SERVER = "segsrv"
JSON = "application/json"
OK_BODY = b'{"status":"ok"}'
DELETE_COOKIE_BODY = b'{"status":"ok","delete_cookie":true}'
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
NO_DETAILS: Mapping[str, Any] = MappingProxyType({})


class Answer:
    """An answer before any server's hand is on it; it may be given to many requests.

    `headers` are those of CORS and of errors; type, length, date and server go without saying.
    `tail` is what follows the common headers of a plain success on the wire, None for others.
    """

    __slots__ = ("body", "headers", "status", "tail")

    def __init__(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] = NO_HEADERS,
        tail: bytes | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.tail = tail

    def render(self, *, is_last: bool = False) -> bytes:
        """Return the whole answer as HTTP/1.1 has it; the connection ends behind one `is_last`."""
        if self.tail is not None and not is_last:
            return _ok_head() + self.tail
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Server: {SERVER}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            f"Content-Type: {JSON}",
            f"Content-Length: {len(self.body)}",
            f"Date: {formatdate(time.time(), usegmt=True)}",
        ]
        if is_last:
            lines.append("Connection: close")
        return "\r\n".join((*lines, "", "")).encode("utf-8", "replace") + self.body


def ok(headers: Mapping[str, str] = NO_HEADERS) -> Answer:
    """Return the plain success; the values of *headers* hold no line end."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    tail = lines.encode("utf-8", "replace") + b"\r\n" + OK_BODY
    return Answer(200, OK_BODY, headers, tail)


def refusal(
    fault: SegsrvError,
    headers: Mapping[str, str] = NO_HEADERS,
    *,
    retry_after_s: int = 5,
    details: Mapping[str, Any] = NO_DETAILS,
) -> Answer:
    """Turn an error of the tree into its answer; *details* become further fields of it."""
    message = str(fault)
    if isinstance(fault, RateLimited):
        retry_after_s = fault.retry_after_s
    if isinstance(fault, Unavailable | RateLimited):
        # Both names and whole seconds: browsers up to 1.83 read the second, most others the first.
        seconds = str(retry_after_s)
        headers = {**headers, "Retry-After": seconds, "X-RateLimit-Reset": seconds}
    body = {"status": "error", "code": fault.code, "message": message, "error": message, **details}
    return Answer(fault.status, orjson.dumps(body), headers)


class _OkHead:
    """The plain success up to its last headers, rendered again when its `Date` is over."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._rendered = b""

    def render(self) -> bytes:
        now_s = time.time()
        if now_s >= self._until_s or now_s < self._until_s - 1.0:
            self._until_s = int(now_s) + 1.0
            date = formatdate(now_s, usegmt=True)
            self._rendered = (
                f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nContent-Length: {len(OK_BODY)}\r\n"
                f"Date: {date}\r\nServer: {SERVER}\r\n"
            ).encode()
        return self._rendered


_ok_head = _OkHead().render
