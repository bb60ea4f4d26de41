"""`POST /debug`: what would become of a request, for operators who are signed in."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import orjson
from aiohttp import web

from segsrv.errors import BadRequest, Overloaded, SegsrvError
from segsrv.events import COMPAT, FLAT, SEGMENT, Format
from segsrv.http import responses
from segsrv.http.trying import Attempt, Trial
from segsrv.ops.sign_in import SignIn

AT_ONCE_MAX = 2
READ_BYTES = 64 << 10
BODY_S_MAX = 30.0
FORMATS: dict[str, tuple[Format, ...]] = {
    "": (),
    "all": (FLAT, COMPAT, SEGMENT),
    **{output.name: (output,) for output in (FLAT, COMPAT, SEGMENT)},
}


class Debug:
    """Tries requests without storing them: at most AT_ONCE_MAX at once, each in a thread.

    The body is what a client would send, decompressed by aiohttp. The query says the rest: `path`,
    `format` (one more to show, or `all`), `address`; the key is in `X-Write-Key` or the body.
    """

    def __init__(self, trial: Trial, sign_in: SignIn, *, body_bytes_max: int) -> None:
        self._trial = trial
        self._sign_in = sign_in
        self._body_bytes_max = body_bytes_max
        self._running = 0

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_post("/debug", self._sign_in.wrap(self._debug))

    async def _debug(self, request: web.Request) -> web.Response:
        try:
            if self._running >= AT_ONCE_MAX:
                raise Overloaded(f"{AT_ONCE_MAX} requests are being tried already")
            self._running += 1
            try:
                return await self._tried(request)
            finally:
                self._running -= 1
        except SegsrvError as error:
            return responses.error(error)

    async def _tried(self, request: web.Request) -> web.Response:
        query = request.query
        shown = query.get("format", "")
        if shown not in FORMATS:
            raise BadRequest(f"format={shown[:40]}: expected one of {', '.join(FORMATS)[2:]}")
        attempt = Attempt(
            path=query.get("path", "/v1/batch"),
            body=await self._body(request),
            credential=request.headers.get("X-Write-Key", ""),
            address=query.get("address", request.remote or ""),
            user_agent=request.headers.get("User-Agent", ""),
        )
        verdict = await self._trial.run_whole(attempt, outputs=FORMATS[shown])
        return responses.ok(orjson.dumps({"verdict": asdict(verdict)}))

    async def _body(self, request: web.Request) -> bytes:
        """Return the body, of which no more is read than one byte above the limit."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S_MAX):
                while len(body) <= self._body_bytes_max:
                    piece = await request.content.read(READ_BYTES)
                    if not piece:
                        break
                    body += piece
        except TimeoutError as error:
            raise BadRequest(f"the body took more than {BODY_S_MAX:g} s") from error
        except web.RequestPayloadError as error:
            raise BadRequest("the body can't be read") from error
        return bytes(body)
