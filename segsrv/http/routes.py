"""Binds paths to handlers, exact ones first and carelessly joined ones behind."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from segsrv.errors import NotFound
from segsrv.http import answers
from segsrv.http.cors import Cors, origin_of
from segsrv.http.ingest import Handler, Ingest
from segsrv.http.openapi import PATH as OPENAPI_PATH
from segsrv.http.openapi import OpenApi
from segsrv.http.paths import ingest_paths, normalised, settings_paths, telemetry_paths
from segsrv.http.project_settings import ProjectSettings


class Probes(Protocol):
    """The handlers that operators' tools ask; `segsrv.ops` has them."""

    async def health(self, request: web.Request, /) -> web.StreamResponse: ...
    async def ready(self, request: web.Request, /) -> web.StreamResponse: ...
    async def metrics(self, request: web.Request, /) -> web.StreamResponse: ...


def add_routes(
    app: web.Application,
    ingest: Ingest,
    probes: Probes,
    project_settings: ProjectSettings,
    openapi: OpenApi,
    cors: Cors,
) -> None:
    """Give *app* all paths. Never a redirect: browsers and Node count one as delivered."""
    posts: dict[str, Handler] = {
        path: ingest.handler(target) for path, target in ingest_paths().items()
    }
    posts |= dict.fromkeys(telemetry_paths(), ingest.telemetry)
    for path, handler in posts.items():
        app.router.add_post(path, handler)
    for pattern in settings_paths():
        app.router.add_get(pattern, project_settings.get, allow_head=False)
    for path, handler in (
        ("/health", probes.health),
        ("/ready", probes.ready),
        ("/metrics", probes.metrics),
        (OPENAPI_PATH, openapi.get),
    ):
        app.router.add_get(path, handler)

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        """Answer preflights, find paths with doubled slashes, or say that nothing is there."""
        if request.method == "OPTIONS":
            return answers.ok(headers=cors.preflight(request))
        path = normalised(request.match_info["path"])
        if request.method == "POST" and (handler := posts.get(path)) is not None:
            return await handler(request)
        return answers.error(
            NotFound(f"there is nothing at {request.method} {path[:200]}"),
            cors.headers(origin_of(request)),
        )

    app.router.add_route("*", "/{path:.*}", elsewhere)
