"""Makes the doors of a server's connections, and holds what they share."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from segsrv.http.front.door import Door
from segsrv.http.front.guest import Guest, Manager, OnAnswered
from segsrv.http.front.heads import Heads
from segsrv.http.ingest import Ingest
from segsrv.http.paths import ingest_paths
from segsrv.settings import Settings

SLOW_S = 1.0
"""A request that is not whole after so long is aiohttp's, whose time limits begin then."""
SLOW_SHARE = 0.25
"""Of the shortest of those limits, if that is less."""


class Front:
    """The factory of the protocols that a loop's server takes."""

    def __init__(
        self,
        server: web.Server,
        ingest: Ingest,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        options: dict[str, Any],
    ) -> None:
        """*options* are those of `Connection`."""
        self.loop = loop
        self.take = ingest.take
        self.receiving = ingest.receiving
        self.heads = Heads(
            ingest_paths(),
            ingest.caller,
            ingest.caller_at,
            forwarded_name=settings.client_ip_header,
            body_bytes_max=settings.body_bytes_max,
        )
        ingest.on_new_keys = self.heads.forget
        self.idle_s = settings.keepalive_timeout_s
        self.slow_s = min(SLOW_S, SLOW_SHARE * min(self.idle_s, settings.body_timeout_s))
        self._server = server
        self._manager = Manager(server)
        self._options = options

    def __call__(self) -> asyncio.Protocol:
        return Door(self)

    def made(self, door: Door, transport: asyncio.Transport) -> None:
        """Count a connection, and have it closed when the server stops."""
        # The server does with connections what `Door` lets it do.
        self._server.connection_made(door, transport)  # type: ignore[arg-type]

    def lost(self, door: Door) -> None:
        """Forget a connection when what it works on has ended."""
        self._server.connection_lost(door)  # type: ignore[arg-type]

    def guest(self, on_answered: OnAnswered) -> Guest:
        """Return aiohttp's side of a connection."""
        return Guest(self._manager, on_answered, loop=self.loop, **self._options)
