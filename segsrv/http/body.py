"""Reads a body under limits of our own: an outer application's `client_max_size` is not ours."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import PayloadAccessError, RequestPayloadError
from multidict import istr

from segsrv.errors import BadRequest, Overloaded, Unavailable

CONTENT_ENCODING = istr("Content-Encoding")
ENCODINGS = ("gzip", "deflate", "br", "zstd", "identity")


class BodyTimeout(Unavailable):
    """The body did not arrive in time; a client on a bad line should try again."""

    code = "body_timeout"


class BodyReader:
    """Reads bodies up to *bytes_max*, and all that are under way up to *reading_bytes_max*."""

    def __init__(self, *, bytes_max: int, reading_bytes_max: int, timeout_s: float) -> None:
        self.reading_bytes = 0
        self._bytes_max = bytes_max
        self._reading_bytes_max = reading_bytes_max
        self._timeout_s = timeout_s

    async def read(self, request: web.Request) -> bytes:
        """Return the whole body, decompressed.

        aiohttp decompresses in bounded pieces while it is read, so a body that grows beyond the
        limit costs no more memory than the limit.

        Raises:
            BadRequest: Over the limit, or its encoding is unknown or broken.
            BodyTimeout: Not complete in time.
            Overloaded: Too many bodies are being received at once.

        """
        headers = request.headers
        if CONTENT_ENCODING in headers:
            _check_encoding(headers[CONTENT_ENCODING])
        announced = request.content_length
        if announced is not None and announced > self._bytes_max:
            raise BadRequest(
                f"the body has {announced} bytes, the limit is {self._bytes_max}",
                code="body_too_large",
            )
        content = request.content
        try:
            if content.is_eof():
                body = content.read_nowait()
            else:
                body = await self._read_pieces(request)
        except (RequestPayloadError, HttpProcessingError, PayloadAccessError) as error:
            # aiohttp's text begins with a line that only names the status.
            reason = str(error).rpartition("\n")[2].strip()
            raise BadRequest(
                f"the body can't be read: {reason}",
                code="unreadable_body",
                # aiohttp's reason may quote the body.
                log_text="the body can't be read",
            ) from error
        if len(body) > self._bytes_max:
            raise self._too_large()
        return body

    async def _read_pieces(self, request: web.Request) -> bytes:
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._timeout_s):
                while piece := await request.content.readany():
                    pieces.append(piece)
                    size += len(piece)
                    self.reading_bytes += len(piece)
                    if size > self._bytes_max:
                        raise self._too_large()
                    if self.reading_bytes > self._reading_bytes_max:
                        raise Overloaded(
                            f"{self.reading_bytes} bytes of bodies are being received, "
                            f"the limit is {self._reading_bytes_max}"
                        )
        except TimeoutError as error:
            raise BodyTimeout(
                f"the body was not complete after {self._timeout_s:g} s ({size} bytes came)"
            ) from error
        finally:
            self.reading_bytes -= size
        return b"".join(pieces)

    def _too_large(self) -> BadRequest:
        return BadRequest(
            f"the body has more than {self._bytes_max} bytes after decompression, "
            "which is the limit",
            code="body_too_large",
        )


def _check_encoding(encoding: str) -> None:
    """Refuse what aiohttp would hand on undecoded, where it would look like broken JSON."""
    if encoding.strip().lower() not in ENCODINGS:
        raise BadRequest(
            f"the Content-Encoding {encoding[:100]!r} is not one of {', '.join(ENCODINGS)}",
            code="unknown_encoding",
        )
