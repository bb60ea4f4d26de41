"""What browser and mobile SDKs fetch before they send: the settings of a project."""

from __future__ import annotations

import hashlib
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from multidict import istr

from segsrv.errors import NotFound, Unauthorized
from segsrv.http import responses
from segsrv.http.auth import Keyring
from segsrv.http.cors import Cors, origin_of
from segsrv.http.handlers import Handler, view_of
from segsrv.http.paths import CUSTOMERIO, SEGMENT_IO
from segsrv.settings import Key, Settings

CACHE_CONTROL = "public, max-age=300"
IF_NONE_MATCH = istr("If-None-Match")
SDK_INTEGRATIONS = frozenset({SEGMENT_IO, CUSTOMERIO})


class ProjectSettings:
    """Answers `GET …/projects/{key}/settings` and `GET …/sourceConfig`.

    The body is the least that the SDKs need to start (read from their sources, verified with the
    browsers'): exactly one integration, the SDK's own, so that the browser loads no other (with two
    it fetches code from its vendor's host first, and without that sends nothing), and no sampling,
    so that it sends no telemetry. `apiHost` overrides what the app configured in most mobile SDKs,
    so it is there only if `public_url` says what to put in.
    """

    def __init__(self, settings: Settings, keyring: Keyring, cors: Cors) -> None:
        self._settings = settings
        self._cors = cors
        self._keyring = keyring

    def handler(self, integration: str) -> Handler:
        """Return the handler for SDKs whose own integration is *integration*."""

        async def get(request: web.Request) -> web.Response:
            return self._answer(request, integration)

        return get

    async def source_config(self, request: web.Request) -> web.Response:
        """Answer with what RudderStack's browser SDK calls the source: no destinations, no code.

        That SDK sends its key as Basic auth here, as it does with events.
        """
        origin = origin_of(request.headers)
        headers = self._cors.headers(origin)
        try:
            key = self._keyring.from_request(view_of(request)) or self._keyring.from_body(None)
            self._cors.check(key, origin)
        except Unauthorized as error:
            return responses.error(error, headers)
        return responses.ok(_source_config(key), headers)

    def _answer(self, request: web.Request, integration: str) -> web.Response:
        """Answer with the project's settings, or 404 for a key that is not configured."""
        write_key = request.match_info["key"]
        headers = self._cors.headers(origin_of(request.headers))
        key = self._keyring.find(write_key)
        if key is None or key.disabled:
            return responses.error(NotFound("there is no project with this write key"), headers)
        body = self._render(write_key, integration)
        headers |= {
            "Cache-Control": CACHE_CONTROL,
            "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
            # Also where there was no origin: a shared cache must not give that answer to a page.
            "Vary": "Origin",
        }
        if request.headers.get(IF_NONE_MATCH) == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return responses.ok(body, headers)

    def _render(self, write_key: str, integration: str) -> bytes:
        own: dict[str, object] = {"apiKey": write_key}
        if self._settings.public_url:
            url = urlsplit(self._settings.public_url)
            own["apiHost"] = f"{url.netloc}{url.path.rstrip('/')}/v1"
            own["protocol"] = url.scheme
        integrations = {integration: own}
        others = SDK_INTEGRATIONS - {integration}
        for name, extra in self._settings.integrations.items():
            if name not in others:
                integrations[name] = integrations.get(name, {}) | extra
        return orjson.dumps(
            {"integrations": integrations, "metrics": {"sampleRate": 0}, "plan": {}}
        )


def _source_config(key: Key) -> bytes:
    source = {"id": key.id, "name": key.id, "enabled": True, "config": {}, "destinations": []}
    return orjson.dumps({"source": source})
