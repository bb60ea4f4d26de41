"""What operators' pages are made of: packaged files, and the headers that guard them."""

from __future__ import annotations

from functools import cache
from importlib import resources

from aiohttp import web

from segsrv.http.answers import SERVER

PAGE_HEADERS = {
    "Server": SERVER,
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With no-referrer a browser would send a form's POST with the origin `null`.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every page and of every answer behind the sign-in."""


@cache
def packaged(name: str) -> str:
    """Return the text of a file of `segsrv/ops/static`."""
    return (resources.files("segsrv.ops") / "static" / name).read_text("utf-8")


def page(text: str, *, status: int = 200, content_type: str = "text/html") -> web.Response:
    """Return *text*, which holds nothing that clients sent, as an answer."""
    return web.Response(
        text=text, status=status, content_type=content_type, charset="utf-8", headers=PAGE_HEADERS
    )


def guard(answer: web.StreamResponse) -> None:
    """Give *answer* the headers of a page, unless it is on its way already."""
    if not answer.prepared:
        answer.headers.update(PAGE_HEADERS)
