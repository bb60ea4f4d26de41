"""`/health`, `/ready` and `/metrics`: answered without a key."""

from __future__ import annotations

import asyncio

from aiohttp import web

from segsrv.delivery.station import Station
from segsrv.errors import ShuttingDown, Unavailable
from segsrv.http import answers
from segsrv.ops.metrics import CONTENT_TYPE, Metrics


class Health:
    """Handlers that say how the process is."""

    def __init__(self, station: Station, metrics: Metrics, *, retry_after_s: int) -> None:
        self._station = station
        self._metrics = metrics
        self._retry_after_s = retry_after_s

    async def health(self, _request: web.Request) -> web.Response:
        """Answer 200 while the process runs."""
        return answers.ok()

    async def ready(self, _request: web.Request) -> web.Response:
        """Answer 200 while the journal takes events, else 503 with the reason."""
        try:
            if self._station.commit is None:
                raise ShuttingDown("the server is not ready")
            await self._station.commit.look()
            self._station.commit.check()
        except Unavailable as error:
            return answers.error(error, retry_after_s=self._retry_after_s)
        return answers.ok()

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer with Prometheus text."""
        body = await asyncio.to_thread(self._metrics.render)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})
