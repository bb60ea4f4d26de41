"""Ingest as handlers of aiohttp: one adapter of it, for mounted use and for what is not hot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from segsrv.errors import BadRequest, SegsrvError
from segsrv.events.counters import OK, PathKind
from segsrv.http import answers
from segsrv.http.answers import Answer
from segsrv.http.auth import Keyring
from segsrv.http.body import BodyReader
from segsrv.http.caller import Caller
from segsrv.http.client_address import ClientAddress
from segsrv.http.ingest import Ingest
from segsrv.http.paths import Target
from segsrv.http.request import Request
from segsrv.http.responses import Refusal, has_outer_layers, response_of
from segsrv.http.tally import Tally

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Read = Callable[[web.Request], Awaitable[bytes]]


class Handlers:
    """Makes handlers of *ingest*, and counts what other handlers answer."""

    def __init__(
        self, ingest: Ingest, keyring: Keyring, client_address: ClientAddress, tally: Tally
    ) -> None:
        self._ingest = ingest
        self._keyring = keyring
        self._client_address = client_address
        self._tally = tally
        self._bodies = BodyReader(ingest.receiving)
        self._has_outer_layers: bool | None = None

    def events(self, target: Target) -> Handler:
        """Return the handler of the paths that say *target*."""

        async def events(request: web.Request) -> web.StreamResponse:
            return self._response(request, await self.answer(request, target))

        return events

    def telemetry(self, target: Target) -> Handler:
        """Return the handler of paths for what SDKs report of themselves, which is not stored."""

        async def telemetry(request: web.Request) -> web.StreamResponse:
            caller = self._ingest.caller(view_of(request), target)
            try:
                await self._bodies.read(request)
            except SegsrvError as error:
                answer = self._ingest.refused(caller, error)
            except ConnectionError:
                answer = _nobody()
            else:
                answer = self._ingest.swallowed(caller)
            return self._response(request, answer)

        return telemetry

    async def answer(
        self, request: web.Request, target: Target, read: Read | None = None
    ) -> Answer:
        """Take the events of *request*.

        *read* returns what stands for the body where events come in another part of the request.
        """
        caller = self._ingest.caller(view_of(request), target)
        if (fault := caller.fault or self._ingest.debt(caller)) is not None:
            return self._ingest.refused(caller, fault)
        try:
            body = await (read or self._bodies.read)(request)
        except (SegsrvError, MemoryError) as error:
            return self._ingest.refused(caller, error)
        except ConnectionError:
            # Raised further, aiohttp would log it as a server's fault.
            return _nobody()
        return await self._taken(caller, body)

    async def _taken(self, caller: Caller, body: bytes) -> Answer:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def give(answer: Answer) -> None:
            # An outer application may have given up on the request.
            if not answered.done():
                answered.set_result(answer)

        self._ingest.take(caller, body, give)
        return await answered

    def _response(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        if self._has_outer_layers is None:
            # Applications are frozen once they serve, so one look is enough.
            self._has_outer_layers = has_outer_layers(request)
        response = response_of(answer, request, is_rendered=not self._has_outer_layers)
        if request.content.exception() is not None:
            # aiohttp closes a connection whose body is broken; the client should know that.
            response.force_close()
        return response

    def counted(self, kind: PathKind, handler: Handler) -> Handler:
        """Return *handler* so that its answers are counted; a key of theirs is in the path."""

        async def counted(request: web.Request) -> web.StreamResponse:
            response = await handler(request)
            in_path = request.match_info.get("key")
            key = self._keyring.find(in_path) if in_path is not None else None
            key_id = "" if key is None else key.id
            if isinstance(response, Refusal):
                view = view_of(request)
                self._tally.refused(
                    response,
                    kind,
                    key_id,
                    self._client_address.of(view),
                    keeps_address=view.query.get("ip_policy", "keep") == "keep",
                )
            else:
                self._tally.counters.answers[OK, response.status, kind, key_id] += 1
            return response

        return counted


def view_of(request: web.Request) -> Request:
    """Return what the head of aiohttp's *request* says."""
    return Request(
        request.method,
        request.path,
        request.rel_url.raw_query_string,
        request.headers,
        request.remote or "",
    )


def _nobody() -> Answer:
    """Return an answer for a client that went away, which nobody reads or counts."""
    return answers.refusal(BadRequest("the client went away"))
