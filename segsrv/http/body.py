"""Reads a body under limits of our own: an outer application's `client_max_size` is not ours."""

from __future__ import annotations

import asyncio

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import PayloadAccessError, RequestPayloadError
from multidict import istr

from segsrv.errors import BadRequest
from segsrv.http.receiving import Receiving
from segsrv.http.turns import Rounds
from segsrv.http.x_gzip import X_GZIP, Gunzipped

CONTENT_ENCODING = istr("Content-Encoding")
IDENTITY = "identity"
ENCODINGS = ("gzip", X_GZIP, "deflate", "br", "zstd", IDENTITY)


class BodyReader:
    """Reads bodies from aiohttp, as far as *receiving* lets it."""

    def __init__(self, receiving: Receiving) -> None:
        self._receiving = receiving
        self._rounds = Rounds()

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
        if announced is not None:
            self._receiving.check_announced(announced)
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
        if len(body) > self._receiving.body_bytes_max:
            raise self._receiving.too_large()
        return body

    async def _read_pieces(
        self, request: web.Request, content: StreamReader | Gunzipped, *, is_costly: bool
    ) -> bytes:
        receiving = self._receiving
        pieces, size = [], 0
        try:
            async with asyncio.timeout(receiving.timeout_s):
                while piece := await _read_piece(request, content):
                    pieces.append(piece)
                    size += len(piece)
                    receiving.add(len(piece))
                    if size > receiving.body_bytes_max:
                        raise receiving.too_large()
                    if is_costly:
                        await self._rounds.next()
        except TimeoutError as error:
            raise receiving.too_slow(size) from error
        finally:
            receiving.give_back(size)
        return b"".join(pieces)


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
