"""Binds paths to handlers, exact ones first and carelessly joined ones behind."""

from __future__ import annotations

import re
from typing import Protocol

from aiohttp import web

from segsrv.errors import NotFound
from segsrv.http import responses
from segsrv.http.analytics_js import AnalyticsJs
from segsrv.http.cors import Cors, origin_of
from segsrv.http.handlers import Handler, Handlers
from segsrv.http.openapi import PATH as OPENAPI_PATH
from segsrv.http.openapi import OpenApi
from segsrv.http.paths import (
    TELEMETRY,
    ingest_paths,
    normalised,
    pixel_paths,
    settings_paths,
    source_config_paths,
    telemetry_paths,
)
from segsrv.http.pixel import Pixel
from segsrv.http.project_settings import ProjectSettings


class Probes(Protocol):
    """The handlers that operators' tools ask; `segsrv.ops` has them.

    With `is_apart` those that show figures have a listener of their own, and are not found here.
    """

    is_apart: bool

    async def health(self, request: web.Request, /) -> web.StreamResponse: ...
    async def ready(self, request: web.Request, /) -> web.StreamResponse: ...
    async def metrics(self, request: web.Request, /) -> web.StreamResponse: ...


def add_routes(
    app: web.Application,
    handlers: Handlers,
    pixel: Pixel,
    probes: Probes,
    project_settings: ProjectSettings,
    analytics_js: AnalyticsJs,
    openapi: OpenApi,
    cors: Cors,
) -> None:
    """Give *app* all paths. Never a redirect: browsers and Node count one as delivered."""
    posts: dict[str, Handler] = {
        path: handlers.events(target) for path, target in ingest_paths().items()
    }
    posts |= dict.fromkeys(telemetry_paths(), handlers.telemetry(TELEMETRY))
    for path, handler in posts.items():
        app.router.add_post(path, handler)
    nothing = _nothing(cors)
    gets = _gets(pixel, probes, project_settings, analytics_js, openapi, nothing, handlers)
    for pattern, handler in gets.items():
        app.router.add_get(pattern, handler)
    matchers = {
        method: [(_matcher(pattern), handler) for pattern, handler in found.items()]
        for method, found in (("GET", gets), ("HEAD", gets), ("POST", _patterns_of(posts)))
    }

    preflight = handlers.counted("preflight", _preflight(cors))
    missing = handlers.counted("other", nothing)

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        """Answer preflights, find paths with doubled slashes, or say that nothing is there."""
        if request.method == "OPTIONS":
            return await preflight(request)
        path = normalised(request.match_info["path"])
        if request.method == "POST" and (handler := posts.get(path)) is not None:
            return await handler(request)
        for matcher, handler in matchers.get(request.method, ()):
            if (found := matcher.fullmatch(path)) is not None:
                request.match_info.update(found.groupdict())
                return await handler(request)
        return await missing(request)

    # A target may hold an encoded line end, which a dot does not match.
    app.router.add_route("*", r"/{path:[\s\S]*}", elsewhere)


def _gets(
    pixel: Pixel,
    probes: Probes,
    project_settings: ProjectSettings,
    analytics_js: AnalyticsJs,
    openapi: OpenApi,
    nothing: Handler,
    handlers: Handlers,
) -> dict[str, Handler]:
    """Return the handlers of what is fetched, by path or pattern."""
    gets: dict[str, Handler] = {
        pattern: handlers.counted("settings", project_settings.handler(integration))
        for pattern, integration in settings_paths().items()
    }
    source_config = handlers.counted("settings", project_settings.source_config)
    gets |= dict.fromkeys(source_config_paths(), source_config)
    gets |= {path: pixel.handler(target) for path, target in pixel_paths().items()}
    gets |= {
        path: handlers.counted("script", handler)
        for path, handler in analytics_js.handlers().items()
    }
    for path, handler in (
        ("/health", probes.health),
        ("/ready", probes.ready),
        ("/metrics", _unless_apart(probes.metrics, nothing, probes)),
        (OPENAPI_PATH, _unless_apart(openapi.get, nothing, probes)),
    ):
        gets[path] = handlers.counted("probe", handler)
    return gets


def _preflight(cors: Cors) -> Handler:
    async def preflight(request: web.Request) -> web.StreamResponse:
        return responses.ok(headers=cors.preflight(request.headers))

    return preflight


def _nothing(cors: Cors) -> Handler:
    async def nothing(request: web.Request) -> web.StreamResponse:
        path = normalised(request.match_info.get("path", request.path))
        text = f"there is nothing at {request.method} "
        return responses.error(
            # The log shortens its text when secrets are out of it: half of one would not be found.
            NotFound(text + path[:200], log_text=text + path),
            cors.headers(origin_of(request.headers)),
        )

    return nothing


def _patterns_of(handlers: dict[str, Handler]) -> dict[str, Handler]:
    return {path: handler for path, handler in handlers.items() if "{" in path}


def _unless_apart(handler: Handler, nothing: Handler, probes: Probes) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await (nothing if probes.is_apart else handler)(request)

    return handle


def _matcher(pattern: str) -> re.Pattern[str]:
    """Compile one of the router's patterns: `{key}` is any text without a slash."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(pattern)))
