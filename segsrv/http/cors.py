"""Cross-origin rules: who may send from a browser page, and what it may read of the answer."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache

from multidict import istr

from segsrv.errors import Unauthorized
from segsrv.http.request import Headers
from segsrv.settings import Key

ORIGIN = istr("Origin")
REQUESTED_HEADERS = istr("Access-Control-Request-Headers")
MAX_AGE_S = 86_400
ORIGINS_CACHED_MAX = 10_000
ORIGIN_CHARS_MAX = 512
REQUESTED_HEADERS_CHARS_MAX = 2_000

ALLOWED_HEADERS = (
    "authorization",
    "content-type",
    "x-retry-count",
    "x-write-key",
    "x-auth-token",
    "api_key",
    "x-enable-debug",
    "x-ip-policy",
    "cache-control",
    "content-encoding",
)
EXPOSED_HEADERS = "Retry-After, X-RateLimit-Reset"


class OriginRefused(Unauthorized):
    """The key may not be used from the page's origin."""

    code = "origin_not_allowed"


def origin_of(headers: Headers) -> str | None:
    """Return the page's origin; None outside of pages, `null` for text that can be none."""
    origin = headers.get(ORIGIN)
    if origin is not None and (len(origin) > ORIGIN_CHARS_MAX or not origin.isprintable()):
        return "null"
    return origin


class Cors:
    """The rules of a set of keys. A preflight carries no key: any key's origins are good there."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.use(keys)

    def use(self, keys: Iterable[Key]) -> None:
        """Go by the rules of *keys* from now on."""
        self._keys = tuple(keys)
        self.allows = lru_cache(ORIGINS_CACHED_MAX)(self._allows)
        self._is_welcome = lru_cache(ORIGINS_CACHED_MAX)(self._some_key_allows)

    def check(self, key: Key, origin: str | None) -> None:
        """Raise OriginRefused if *key* may not be used from *origin* (None: not from a page)."""
        if origin is not None and key.origins and not self.allows(key, origin):
            text = "the write key may not be used from the origin "
            raise OriginRefused(text + origin[:200], log_text=text + origin)

    def headers(self, origin: str | None) -> dict[str, str]:
        """Return the CORS headers of an answer, errors included; none without a known origin.

        The origin is named and never `*`: pages may send with credentials.
        """
        if origin is None or not self._is_welcome(origin):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": EXPOSED_HEADERS,
            "Vary": "Origin",
        }

    def preflight(self, request_headers: Headers) -> dict[str, str]:
        """Return the headers of the answer to a preflight.

        Headers are listed one by one, since `*` never covers `authorization`; what else the page
        asks for is granted too, because SDK users add headers of their own.
        """
        headers = self.headers(origin_of(request_headers))
        if not headers:
            return {"Vary": "Origin"}
        asked = request_headers.get(REQUESTED_HEADERS, "")[:REQUESTED_HEADERS_CHARS_MAX]
        names = dict.fromkeys(ALLOWED_HEADERS)
        names |= dict.fromkeys(
            name for part in asked.split(",") if _is_token(name := part.strip().lower())
        )
        return headers | {
            "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
            "Access-Control-Allow-Headers": ", ".join(names),
            "Access-Control-Max-Age": str(MAX_AGE_S),
            "Vary": "Origin, Access-Control-Request-Headers",
        }

    def _allows(self, key: Key, origin: str) -> bool:
        return any(fnmatchcase(origin.lower(), pattern.lower()) for pattern in key.origins)

    def _some_key_allows(self, origin: str) -> bool:
        return any(not key.origins or self._allows(key, origin) for key in self._keys)


def _is_token(name: str) -> bool:
    return bool(name) and name.isascii() and name.replace("-", "").replace("_", "").isalnum()
