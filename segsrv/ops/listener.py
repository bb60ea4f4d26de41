"""The application of the operators' own listener."""

from __future__ import annotations

from aiohttp import web

from segsrv.errors import NotFound
from segsrv.http import responses
from segsrv.http.openapi import PATH as OPENAPI_PATH
from segsrv.http.openapi import OpenApi
from segsrv.ops.health import Health

PATH_CHARS_MAX = 200


def ops_application(health: Health, openapi: OpenApi) -> web.Application:
    """Build the application that answers operators and their tools, without a key."""
    app = web.Application()
    app.router.add_get("/health", health.health)
    app.router.add_get("/ready", health.ready_in_detail)
    app.router.add_get("/metrics", health.metrics)
    app.router.add_get(OPENAPI_PATH, openapi.get)
    # A target may hold an encoded line end, which a dot does not match.
    app.router.add_route("*", r"/{path:[\s\S]*}", _elsewhere)
    return app


async def _elsewhere(request: web.Request) -> web.Response:
    path = request.path[:PATH_CHARS_MAX]
    return responses.error(
        NotFound(f"there is nothing at {request.method} {path}; events go to the public port")
    )
