"""`/health`, `/ready` and `/metrics`: answered without a key."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import orjson
from aiohttp import web

from segsrv.delivery.station import Station
from segsrv.errors import ShuttingDown, Unavailable
from segsrv.http import responses
from segsrv.ops.metrics import CONTENT_TYPE, Metrics
from segsrv.ops.peers import DELIVERY, SILENT_S, Peers, Report


class Health:
    """Handlers that say how the server is.

    With `is_apart`, the pages that are no stranger's business are on a listener of their own, and
    no longer where events are taken.
    """

    def __init__(
        self,
        station: Station,
        metrics: Metrics,
        peers: Peers,
        *,
        retry_after_s: int,
        is_apart: bool,
    ) -> None:
        self.is_apart = is_apart
        self._station = station
        self._metrics = metrics
        self._peers = peers
        self._retry_after_s = retry_after_s
        self._is_stopping = False

    async def stop(self, _app: web.Application) -> None:
        """Say from now on that the server stops, also while it still answers what it has taken."""
        self._is_stopping = True

    async def health(self, _request: web.Request) -> web.Response:
        """Answer 200 while the process runs."""
        return responses.ok()

    async def ready(self, _request: web.Request) -> web.Response:
        """Answer 200 while this worker's journal takes events, else 503 without any figure."""
        try:
            await self._look()
        except Unavailable as error:
            fault = _fault(error.code, "no events can be taken now")
            return responses.error(fault, retry_after_s=self._retry_after_s)
        return responses.ok()

    async def ready_in_detail(self, _request: web.Request) -> web.Response:
        """Answer 200 while every worker's journal takes events, else 503; with what each says.

        The state of the sinks is told too, which changes nothing of the answer's status.
        """
        details = await self.details()
        for found in details["workers"]:
            if not found["ready"]:
                fault = _fault(found["code"], f"worker {found['worker']}: {found['message']}")
                return responses.error(fault, retry_after_s=self._retry_after_s, details=details)
        return responses.ok(orjson.dumps({"status": "ok", **details}))

    async def details(self) -> dict[str, Any]:
        """Return the state of each of the `workers`, and of the `sinks` as far as it is known."""
        state, others = await asyncio.gather(self._state(), self._peers.others())
        workers = []
        for name in self._peers.workers:
            found = state if name == self._peers.name else _state_of(others.get(name))
            workers.append({"worker": int(name), **found})
        details: dict[str, Any] = {"workers": workers}
        if self._peers.has_delivery:
            details |= _delivery_of(others.get(DELIVERY))
        elif self._station.delivery is not None:
            details["sinks"] = self._station.delivery.report()
        return details

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer with Prometheus text."""
        own, others = await asyncio.gather(self._metrics.families(), self._peers.others())
        body = await asyncio.to_thread(self._metrics.render, own, others)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def report(self) -> Report:
        """Return what others need to answer for this worker."""
        delivery = self._station.delivery
        return {
            "pid": os.getpid(),
            "ready": await self._state(),
            "families": await self._metrics.families(),
            "sinks": [] if delivery is None else delivery.report(),
        }

    async def _look(self) -> None:
        """Raise what keeps this worker from taking an event now."""
        if self._is_stopping:
            raise ShuttingDown("the server is shutting down")
        if self._station.commit is None:
            raise ShuttingDown("the server is not ready")
        await self._station.commit.look()
        self._station.commit.check()

    async def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"ready": True}
        try:
            await self._look()
        except Unavailable as error:
            state = {"ready": False, "code": error.code, "message": str(error)}
        if self._station.commit is not None:
            state["pending_bytes"] = self._station.commit.pending_bytes
            state["undelivered_bytes"] = self._station.commit.undelivered_bytes
        return state


def _state_of(report: Report | None) -> dict[str, Any]:
    if report is None or report["age_s"] > SILENT_S:
        return _silent(report)
    state: dict[str, Any] = report["ready"]
    return state


def _delivery_of(report: Report | None) -> dict[str, Any]:
    """Return what is told of delivery; a server takes events whether or not they are delivered."""
    details: dict[str, Any] = {"sinks": report["sinks"] if report else []}
    if report is None or report["age_s"] > SILENT_S:
        details["delivery"] = _silent(report)
    return details


def _silent(report: Report | None) -> dict[str, Any]:
    age_s = report["age_s"] if report else float("inf")
    since = "" if age_s == float("inf") else f" for {age_s:.0f} s"
    return {"ready": False, "code": "silent", "message": f"has not reported{since}"}


def _fault(code: str, message: str) -> Unavailable:
    fault = Unavailable(message)
    fault.code = code
    return fault
