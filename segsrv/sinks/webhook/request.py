"""What a webhook's requests hold: the body, and the headers that name and sign it.

Signed as Standard Webhooks has it (https://www.standardwebhooks.com), symmetric scheme `v1`: the
HMAC-SHA256 of `ID.TIMESTAMP.BODY`, the body as it travels.
"""

from __future__ import annotations

import base64
import hmac
import sys
import time
import zlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

from segsrv.sinks.base import Batch

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compress = Literal["none", "gzip", "zstd"]
BodyEncoding = Literal["ndjson", "json"]

CONTENT_TYPES: dict[BodyEncoding, str] = {
    "ndjson": "application/x-ndjson",
    "json": "application/json",
}
GZIP_LEVEL = 6
ZSTD_LEVEL = 3


class Request(NamedTuple):
    """One try to deliver a batch; headers beside those that all requests have."""

    body: bytes
    headers: dict[str, str]


def prepare(
    batch: Batch, encoding: BodyEncoding, compress: Compress, signing_keys: Sequence[bytes]
) -> Request:
    """Return the request for *batch*, signed with each key now.

    It takes up to a millisecond a megabyte, with gzip seven: call it in a thread.
    """
    # A dot separates what is signed, so the id has none; nothing else becomes a tilde.
    name = batch.id.replace(".", "~")
    body = _compressed(_body(batch, encoding), compress)
    headers = {"Idempotency-Key": name, "webhook-id": name}
    if compress != "none":
        headers["Content-Encoding"] = compress
    if signing_keys:
        timestamp = str(int(time.time()))
        headers["webhook-timestamp"] = timestamp
        headers["webhook-signature"] = " ".join(
            _signature(key, f"{name}.{timestamp}.".encode(), body) for key in signing_keys
        )
    return Request(body, headers)


def _body(batch: Batch, encoding: BodyEncoding) -> bytes:
    content = batch.content
    if encoding == "ndjson":
        return content
    # Within a line of JSON a newline is always escaped.
    return b"[%b]" % content[:-1].replace(b"\n", b",")


def _compressed(body: bytes, compress: Compress) -> bytes:
    if compress == "gzip":
        return zlib.compress(body, GZIP_LEVEL, 16 + zlib.MAX_WBITS)
    return zstd.compress(body, ZSTD_LEVEL) if compress == "zstd" else body


def _signature(key: bytes, head: bytes, body: bytes) -> str:
    seal = hmac.new(key, head, "sha256")
    seal.update(body)
    return f"v1,{base64.b64encode(seal.digest()).decode()}"
