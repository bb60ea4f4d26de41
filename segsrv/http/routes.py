"""Binds paths to handlers, exact ones first and carelessly joined ones behind."""

from __future__ import annotations

import re
from typing import Protocol

from aiohttp import web

from segsrv.errors import NotFound
from segsrv.http import answers
from segsrv.http.analytics_js import AnalyticsJs
from segsrv.http.cors import Cors, origin_of
from segsrv.http.ingest import Handler, Ingest
from segsrv.http.openapi import PATH as OPENAPI_PATH
from segsrv.http.openapi import OpenApi
from segsrv.http.paths import (
    ingest_paths,
    normalised,
    settings_paths,
    source_config_paths,
    telemetry_paths,
)
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
    analytics_js: AnalyticsJs,
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
    gets: dict[str, Handler] = {
        pattern: project_settings.handler(integration)
        for pattern, integration in settings_paths().items()
    }
    gets |= dict.fromkeys(source_config_paths(), project_settings.source_config)
    gets |= analytics_js.handlers()
    gets |= {"/health": probes.health, "/ready": probes.ready, "/metrics": probes.metrics}
    gets[OPENAPI_PATH] = openapi.get
    for pattern, handler in gets.items():
        app.router.add_get(pattern, handler)
    matchers = [(_matcher(pattern), handler) for pattern, handler in gets.items()]

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        """Answer preflights, find paths with doubled slashes, or say that nothing is there."""
        if request.method == "OPTIONS":
            return answers.ok(headers=cors.preflight(request))
        path = normalised(request.match_info["path"])
        if request.method == "POST" and (handler := posts.get(path)) is not None:
            return await handler(request)
        if request.method == "GET":
            for matcher, handler in matchers:
                if (found := matcher.fullmatch(path)) is not None:
                    request.match_info.update(found.groupdict())
                    return await handler(request)
        return answers.error(
            NotFound(f"there is nothing at {request.method} {path[:200]}"),
            cors.headers(origin_of(request)),
        )

    app.router.add_route("*", "/{path:.*}", elsewhere)


def _matcher(pattern: str) -> re.Pattern[str]:
    """Compile one of the router's patterns: `{key}` is any text without a slash."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(pattern)))
