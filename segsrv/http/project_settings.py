"""What browser and mobile SDKs fetch before they send: the settings of a project."""

from __future__ import annotations

import hashlib
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from multidict import istr

from segsrv.errors import NotFound
from segsrv.http import answers
from segsrv.http.auth import Keyring
from segsrv.http.cors import Cors, origin_of
from segsrv.settings import Settings

CACHE_CONTROL = "public, max-age=300"
IF_NONE_MATCH = istr("If-None-Match")


class ProjectSettings:
    """Answers `GET …/projects/{key}/settings`.

    The body is the least that the SDKs need to start (read from their sources, verified with the
    browser's): exactly one integration, so that the browser loads no other, and no sampling, so
    that it sends no telemetry. `apiHost` overrides what the app configured in most mobile SDKs, so
    it is there only if `public_url` says what to put in.
    """

    def __init__(self, settings: Settings, keyring: Keyring, cors: Cors) -> None:
        self._settings = settings
        self._cors = cors
        self._keyring = keyring

    async def get(self, request: web.Request) -> web.Response:
        """Answer with the project's settings, or 404 for a key that is not configured."""
        write_key = request.match_info["key"]
        headers = self._cors.headers(origin_of(request))
        if self._keyring.find(write_key) is None:
            return answers.error(NotFound("there is no project with this write key"), headers)
        body = self._render(write_key)
        headers |= {
            "Cache-Control": CACHE_CONTROL,
            "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
            # Also where there was no origin: a shared cache must not give that answer to a page.
            "Vary": "Origin",
        }
        if request.headers.get(IF_NONE_MATCH) == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return answers.ok(body, headers)

    def _render(self, write_key: str) -> bytes:
        segment: dict[str, object] = {"apiKey": write_key}
        if self._settings.public_url:
            url = urlsplit(self._settings.public_url)
            segment["apiHost"] = f"{url.netloc}{url.path.rstrip('/')}/v1"
            segment["protocol"] = url.scheme
        integrations = {"Segment.io": segment}
        for name, extra in self._settings.integrations.items():
            integrations[name] = integrations.get(name, {}) | extra
        return orjson.dumps(
            {"integrations": integrations, "metrics": {"sampleRate": 0}, "plan": {}}
        )
