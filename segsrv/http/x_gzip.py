"""Bodies in `x-gzip`, an old name of gzip (RFC 9110, 8.4.1.3) that aiohttp hands on undecoded."""

from __future__ import annotations

import zlib

from aiohttp import StreamReader
from aiohttp.compression_utils import TooManyMembersError, ZLibDecompressor

from segsrv.errors import BadRequest

X_GZIP = "x-gzip"
PIECE_BYTES_MAX = 64 << 10


class Gunzipped:
    """A stream's text, read as a stream; aiohttp's own decoder has the same limits as for gzip."""

    def __init__(self, compressed: StreamReader) -> None:
        self._compressed = compressed
        self._decoder = ZLibDecompressor(encoding="gzip")
        self._has_more = False

    async def readany(self) -> bytes:
        """Return the next piece, at most PIECE_BYTES_MAX; nothing at the end.

        Raises:
            BadRequest: It is not gzip.

        """
        while True:
            compressed = b"" if self._has_more else await self._compressed.readany()
            if not compressed and not self._has_more:
                return b""
            try:
                piece = self._decoder.decompress_sync(compressed, PIECE_BYTES_MAX)
            except (zlib.error, TooManyMembersError) as error:
                raise BadRequest(
                    f"the body can't be read: it is no {X_GZIP}: {error}", code="unreadable_body"
                ) from error
            self._has_more = self._decoder.data_available
            if piece:
                return piece
