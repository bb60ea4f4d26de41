"""The live page: what arrives, what is refused, and how the server is, as it happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from segsrv.errors import BadRequest, Overloaded
from segsrv.http import responses
from segsrv.live.viewer import Item, Waiting
from segsrv.live.wanted import KINDS, Wanted
from segsrv.ops.pages import PAGE_HEADERS, packaged, page
from segsrv.ops.sign_in import SignIn

logger = logging.getLogger(__name__)

Watch = Callable[[Wanted], AsyncIterator[Item]]

GATHER_S = 0.25
"""Items of so long are written at once."""
HEARTBEAT_S = 10.0
LOOK_S = 1.0
"""How often a viewer that gets nothing is looked for."""
WRITE_S_MAX = 30.0
STREAM_S_MAX = 3_600.0
"""Then the viewer has to ask again, and to be signed in still."""
FILTER_CHARS_MAX = 200


class LivePage:
    """Shows viewers what *watch* yields; only so many at once, and none holds up a stop."""

    def __init__(self, sign_in: SignIn, watch: Watch, *, viewers_max: int) -> None:
        self._sign_in = sign_in
        self._watch = watch
        self._viewers_max = viewers_max
        self._viewers = 0
        self._open: dict[Waiting, web.Request] = {}
        self._is_stopping = False

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/live", self._sign_in.wrap(_page))
        app.router.add_get("/live.js", self._sign_in.wrap(_script))
        app.router.add_get("/live/events", self._sign_in.wrap(self._events), allow_head=False)
        app.on_shutdown.append(self._stop)

    async def _stop(self, _app: web.Application) -> None:
        self._is_stopping = True
        for waiting, request in self._open.items():
            waiting.has_some.set()
            if request.transport is not None and request.protocol.writing_paused:
                request.transport.abort()

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Answer with server-sent events, each the JSON of one item, until the viewer leaves."""
        try:
            wanted = _wanted(request)
            if self._is_stopping:
                raise Overloaded("the server is stopping")
            if self._viewers >= self._viewers_max:
                raise Overloaded(
                    f"{self._viewers_max} live pages are open already (live_viewers_max); close one"
                )
        except (BadRequest, Overloaded) as error:
            return responses.error(error)
        self._viewers += 1
        try:
            return await self._show(request, wanted)
        finally:
            self._viewers -= 1

    async def _show(self, request: web.Request, wanted: Wanted) -> web.StreamResponse:
        answer = web.StreamResponse(
            headers={
                **PAGE_HEADERS,
                "Content-Type": "text/event-stream; charset=utf-8",
                # Or nginx would keep items until it has some pages of them.
                "X-Accel-Buffering": "no",
            }
        )
        waiting = Waiting()
        filling = asyncio.create_task(waiting.fill(self._watch(wanted)), name="segsrv-live")
        self._open[waiting] = request
        try:
            await answer.prepare(request)
            await self._write_on(request, answer, waiting, filling)
        except (ConnectionError, TimeoutError):
            # The viewer is gone, or takes nothing.
            if request.transport is not None:
                request.transport.abort()
        finally:
            del self._open[waiting]
            filling.cancel()
            await asyncio.wait([filling])
        if not filling.cancelled() and (error := filling.exception()) is not None:
            logger.error("live page: nothing more to show", exc_info=error)
        return answer

    async def _write_on(
        self,
        request: web.Request,
        answer: web.StreamResponse,
        waiting: Waiting,
        filling: asyncio.Task[None],
    ) -> None:
        end_s = time.monotonic() + STREAM_S_MAX
        await answer.write(b": hello\n\n")
        written_s = time.monotonic()
        while not self._is_stopping and time.monotonic() < end_s:
            if filling.done() and not waiting.has_some.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(waiting.has_some.wait(), LOOK_S)
            if request.transport is None or request.transport.is_closing():
                return
            data = waiting.take()
            if not data and time.monotonic() - written_s >= HEARTBEAT_S:
                data = b": still here\n\n"
            if data:
                await asyncio.wait_for(answer.write(data), WRITE_S_MAX)
                written_s = time.monotonic()
                await asyncio.sleep(GATHER_S)


def _wanted(request: web.Request) -> Wanted:
    """Return what the query asks for.

    Raises:
        BadRequest: A value is too long, or a kind is none.

    """
    found = {name: request.query.get(name, "") for name in ("key", "type", "event", "kinds")}
    if any(len(value) > FILTER_CHARS_MAX for value in found.values()):
        raise BadRequest(f"a filter has more than {FILTER_CHARS_MAX} characters")
    kinds = frozenset(filter(None, found.pop("kinds").split(",")))
    if kinds - KINDS:
        raise BadRequest(f"kinds: expected some of {', '.join(sorted(KINDS))}")
    return Wanted(**found, kinds=kinds)


async def _page(_request: web.Request) -> web.Response:
    return page(packaged("live.html"))


async def _script(_request: web.Request) -> web.Response:
    return page(packaged("live.js"), content_type="text/javascript")
