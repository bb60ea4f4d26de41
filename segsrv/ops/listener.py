"""The application of the operators' own listener."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from segsrv.errors import NotFound
from segsrv.http import responses
from segsrv.http.openapi import PATH as OPENAPI_PATH
from segsrv.http.openapi import OpenApi
from segsrv.ops.health import Health
from segsrv.ops.sign_in import SignIn

PATH_CHARS_MAX = 200


def ops_application(
    health: Health,
    openapi: OpenApi,
    sign_in: SignIn,
    *pages: Callable[[web.Application], None],
) -> web.Application:
    """Build the application that answers operators and their tools.

    Figures are there for everybody. *pages*, which show what clients sent, each add routes to it,
    behind *sign_in*.
    """
    app = web.Application()
    app.router.add_get("/health", health.health)
    app.router.add_get("/ready", health.ready_in_detail)
    app.router.add_get("/metrics", health.metrics)
    app.router.add_get(OPENAPI_PATH, openapi.get)
    sign_in.add_to(app)
    for add_to in pages:
        add_to(app)
    # A target may hold an encoded line end, which a dot does not match.
    app.router.add_route("*", r"/{path:[\s\S]*}", _elsewhere)
    return app


async def _elsewhere(request: web.Request) -> web.Response:
    path = request.path[:PATH_CHARS_MAX]
    return responses.error(
        NotFound(f"there is nothing at {request.method} {path}; events go to the public port")
    )
