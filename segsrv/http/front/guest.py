"""aiohttp's side of a connection that stands behind a door."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from aiohttp import web
from aiohttp.web_request import BaseRequest

from segsrv.http.connection import Connection


class Manager:
    """Stands for the server towards guests, so that it counts their door and not them too."""

    def __init__(self, server: web.Server) -> None:
        self.request_handler = server.request_handler
        self.request_factory = server.request_factory
        self.handler_cancellation = server.handler_cancellation
        self.requests_count = 0

    def connection_made(self, guest: Guest, transport: asyncio.Transport) -> None:
        """Do nothing: the door told the server."""

    def connection_lost(self, guest: Guest, error: BaseException | None = None) -> None:
        """Do nothing: the door tells the server."""


class OnAnswered(Protocol):
    def __call__(self, *, can_leave: bool) -> None: ...


class Guest(Connection):
    """Says when it has answered, and leaves the transport open if it is asked to leave then.

    With `is_reading_held` it has all that it gets, and the transport stays paused.
    """

    __slots__ = ("_on_answered", "is_reading_held")

    def __init__(self, manager: Manager, on_answered: OnAnswered, **options: Any) -> None:
        super().__init__(manager, **options)  # type: ignore[arg-type]
        self._on_answered: OnAnswered | None = on_answered
        self.is_reading_held = False

    @property
    def task(self) -> asyncio.Task[None] | None:
        return self._task_handler

    @property
    def is_reading_paused(self) -> bool:
        return self._reading_paused or self._buffer_paused

    def leave(self) -> None:
        """End without a word to the client; only while the last answer is being finished."""
        self.transport = None
        # The timer of the connection's start.
        self.keep_alive(val=True)
        self.close()
        # They refer to each other, and nobody looks for such cycles often.
        self._parser = None
        self._on_answered = None

    def _resume_transport_reading(self) -> None:
        if not self.is_reading_held:
            super()._resume_transport_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._on_answered = None

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the answer, and tell the door whether nothing is left to be done here."""
        finished = await super().finish_response(request, resp, start_time)
        if self._on_answered is not None:
            has_failed = finished[1] or self._close or self._force_close
            self._on_answered(
                can_leave=bool(resp.keep_alive)
                and request.content.is_eof()
                and not has_failed
                and not self._messages
                and self.transport is not None
            )
        return finished
