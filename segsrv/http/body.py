"""Reads a body under limits of our own: an outer application's `client_max_size` is not ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import PayloadAccessError, RequestPayloadError
from multidict import istr

from segsrv.errors import BadRequest, Overloaded, Unavailable
from segsrv.http.turns import Rounds
from segsrv.http.x_gzip import X_GZIP, Gunzipped

CONTENT_ENCODING = istr("Content-Encoding")
IDENTITY = "identity"
ENCODINGS = ("gzip", X_GZIP, "deflate", "br", "zstd", IDENTITY)


class BodyTimeout(Unavailable):
    """The body did not arrive in time; a client on a bad line should try again."""

    code = "body_timeout"


class BodyReader:
    """Reads bodies up to *bytes_max*, and all that are under way up to *reading_bytes_max*."""

    def __init__(self, *, bytes_max: int, reading_bytes_max: int, timeout_s: float) -> None:
        self.reading_bytes = 0
        self._rounds = Rounds()
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
        encoding = None
        if CONTENT_ENCODING in headers:
            encoding = _encoding(headers.getall(CONTENT_ENCODING))
        announced = request.content_length
        if announced is not None and announced > self._bytes_max:
            raise BadRequest(
                f"the body has {announced} bytes, the limit is {self._bytes_max}",
                code="body_too_large",
            )
        content = request.content
        try:
            if encoding == X_GZIP:
                body = await self._read_pieces(request, Gunzipped(content), is_costly=True)
            elif content.is_eof():
                body = content.read_nowait()
            else:
                # The next piece is decompressed, or put together of chunks, as this one is read.
                is_costly = announced is None or encoding not in (None, IDENTITY)
                body = await self._read_pieces(request, content, is_costly=is_costly)
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

    async def _read_pieces(
        self, request: web.Request, content: StreamReader | Gunzipped, *, is_costly: bool
    ) -> bytes:
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._timeout_s):
                while piece := await _read_piece(request, content):
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
                    if is_costly:
                        await self._rounds.next()
        except TimeoutError as error:
            raise BodyTimeout(
                f"the body was not complete after {self._timeout_s:g} s ({size} bytes came)"
            ) from error
        finally:
            self.reading_bytes -= size
        return b"".join(pieces)

    @contextlib.contextmanager
    def held(self, body: bytes) -> Iterator[None]:
        """Count *body* among those that are being read while it waits for its turn."""
        self.reading_bytes += len(body)
        try:
            yield
        finally:
            self.reading_bytes -= len(body)

    def _too_large(self) -> BadRequest:
        return BadRequest(
            f"the body has more than {self._bytes_max} bytes after decompression, "
            "which is the limit",
            code="body_too_large",
        )


def _encoding(lines: list[str]) -> str:
    """Return the encoding that the lines of the header name, in lower case.

    Refused is what aiohttp would hand on undecoded, where it would look like broken JSON; of
    several lines it heeds the last.
    """
    text = ", ".join(lines).strip()
    encoding = text.lower()
    if "," in encoding:
        raise BadRequest(
            f"the body is in more than one Content-Encoding: {encoding[:100]!r}; one is read",
            code="unknown_encoding",
            # Whole and as it was sent, so that a secret in it is found.
            log_text=f"the body is in more than one Content-Encoding: {text}",
        )
    if encoding not in ENCODINGS:
        raise BadRequest(
            f"the Content-Encoding {encoding[:100]!r} is not one of {', '.join(ENCODINGS)}",
            code="unknown_encoding",
            log_text=f"the Content-Encoding is not known: {text}",
        )
    return encoding


async def _read_piece(request: web.Request, content: StreamReader | Gunzipped) -> bytes:
    if request.transport is None and not request.content.is_eof():
        # The connection was lost before the handler began, which aiohttp calls a fault of ours.
        raise ConnectionResetError("the client went away")
    return await content.readany()
