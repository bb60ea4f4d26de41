"""Events that come with an image: `GET /v1/pixel/track?data=BASE64`, for mails and adverts.

Segment documents two forms, the event as base64 of JSON in `data`, and its fields as parameters
(`properties.subject=Hello`), which RudderStack's pixels have too. Whatever becomes of the event,
the answer is an image, as a page or a mail would else show a broken one; only its status differs.
"""

from __future__ import annotations

import base64
import json

from aiohttp import web
from multidict import MultiMapping

from segsrv.errors import BadRequest
from segsrv.events.shapes import Event
from segsrv.http import answers
from segsrv.http.auth import is_credential
from segsrv.http.cors import Cors, origin_of
from segsrv.http.handlers import Handler, Handlers
from segsrv.http.paths import Target

IMAGE = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"
    b"!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
"""One transparent point."""
HEADERS = {
    "Server": answers.SERVER,
    "Content-Type": "image/gif",
    # Mail providers' image proxies heed different words of these.
    "Cache-Control": "no-store, no-cache, must-revalidate, private",
    "X-Content-Type-Options": "nosniff",
}
KEPT_HEADERS = ("Retry-After", "X-RateLimit-Reset")
DATA = "data"
LEVELS_MAX = 32
"""Of a field's name; dots beyond are part of the last level's name."""
OTHER_NAMES = (DATA, "ip_policy", "cookie_policy")
"""Parameters that are no field of the event; neither are those with the key."""

# A "+" that nobody escaped arrives as a space; some encoders break lines.
_ALPHABET = str.maketrans("-_ ", "+/+", "=\r\n")


class Pixel:
    """Answers the pixel paths; events go through *handlers*, as those of a POST do."""

    def __init__(self, handlers: Handlers, cors: Cors, *, body_bytes_max: int) -> None:
        self._handlers = handlers
        self._cors = cors
        self._body_bytes_max = body_bytes_max

    def handler(self, target: Target) -> Handler:
        """Return the handler of the paths that say *target*, for GET and HEAD."""

        async def pixel(request: web.Request) -> web.Response:
            headers = HEADERS | self._cors.headers(origin_of(request.headers))
            if request.method == "HEAD":
                # Link checkers ask so; only an image that is fetched is an event.
                return web.Response(body=IMAGE, headers=headers)
            answer = await self._handlers.answer(request, target, self._read)
            headers |= {
                name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers
            }
            return web.Response(status=answer.status, body=IMAGE, headers=headers)

        return pixel

    async def _read(self, request: web.Request) -> bytes:
        """Return the event as JSON; it stands in the query, whose length is the head's limit.

        Raises:
            BadRequest: `data` is not base64, the fields contradict each other, or the event is over
                the limit of a body.

        """
        query = request.query
        body = _decoded(data) if (data := query.get(DATA)) else _from_fields(query)
        if len(body) > self._body_bytes_max:
            raise BadRequest(
                f"the event has {len(body)} bytes, the limit is {self._body_bytes_max}",
                code="body_too_large",
            )
        return body


def _decoded(data: str) -> bytes:
    """Read base64 in either alphabet, padded or not; JSON that is not encoded is taken as it is."""
    if data.lstrip().startswith("{"):
        return data.encode("utf-8", "replace")
    text = data.translate(_ALPHABET)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise BadRequest(f"data is not base64: {error}", code="invalid_base64") from error


def _from_fields(query: MultiMapping[str]) -> bytes:
    """Make an event of parameters whose names say by dots where their values belong."""
    event: Event = {}
    for name, value in query.items():
        if name in OTHER_NAMES or is_credential(name):
            continue
        *holders, last = name.split(".", LEVELS_MAX - 1)
        place = event
        for holder in holders:
            place = place.setdefault(holder, {})
            if place.__class__ is not dict:
                break
        if place.__class__ is not dict or place.get(last).__class__ is dict:
            text = "another parameter can't both be given"
            raise BadRequest(
                f"{name[:100]} and {text}", code="invalid_fields", log_text=f"{name} and {text}"
            )
        place[last] = value
    return json.dumps(event).encode()
