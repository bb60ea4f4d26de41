"""The browser SDK for pages with Segment's snippet: the files of npm's @segment/analytics-next.

The package is MIT-licensed, and its `dist/umd` holds what Segment's CDN serves: `standalone.js`,
there named `analytics.min.js`, and chunks that it loads from `{cdn}/analytics-next/bundles/` when
settings ask for them. segsrv ships none of it; `analytics_js_dir` says where an operator has it.

The files are served as they are. Segment's CDN puts the write key in place of `__WRITE_KEY__`, but
without it the SDK takes the snippet's own key, or that of its script's address. Where its CDN is it
reads from `https://` addresses only and otherwise assumes Segment's, to which it would then send
the key; so one line in front tells it where the script came from.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from multidict import istr

from segsrv.errors import NotFound, SettingsError
from segsrv.http import responses
from segsrv.http.answers import SERVER
from segsrv.http.auth import Keyring
from segsrv.http.cors import Cors, origin_of
from segsrv.http.handlers import Handler
from segsrv.http.paths import PREFIXES
from segsrv.settings import MIB, Settings

ACCEPT_ENCODING = istr("Accept-Encoding")
IF_NONE_MATCH = istr("If-None-Match")
SCRIPT = "standalone.js"
SCRIPT_PATTERN = "/analytics.js/v1/{key}/analytics.min.js"
BUNDLE_PATTERN = "/analytics-next/bundles/{file}"
FILES_MAX = 256
FILE_BYTES_MAX = 4 * MIB
CONTENT_TYPES = {".js": "text/javascript; charset=utf-8", ".map": "application/json"}
CACHE_SHORTLY = "public, max-age=300"
# The name of a chunk holds the hash of what is in it.
CACHE_FOR_EVER = "public, max-age=31536000, immutable"
CHUNK_MARK = ".bundle."

_SAY_WHERE_FROM = (
    b"!function(){var s=document.currentScript,m=s&&/^(.*)\\/analytics\\.js\\/v1\\//.exec(s.src);"
    b'if(m){var k=s.getAttribute("data-global-segment-analytics-key")||"analytics",'
    b"a=window[k]=window[k]||[];a._cdn=a._cdn||m[1]}}();\n"
)


@dataclass(slots=True)
class _File:
    content_type: str
    cache_control: str
    body: bytes
    compressed: bytes = field(init=False)
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        self.compressed = gzip.compress(self.body, mtime=0)
        # Weak, for it names both forms, compressed and not.
        self.etag = f'W/"{hashlib.sha256(self.body).hexdigest()[:32]}"'


class AnalyticsJs:
    """Answers with the files of `analytics_js_dir`, read once; with 404 if that is not set.

    Raises:
        SettingsError: The folder can't be read, or is not what the package's `dist/umd` is.

    """

    def __init__(self, settings: Settings, keyring: Keyring, cors: Cors) -> None:
        self._cors = cors
        self._keyring = keyring
        # A request's file name is only ever looked up here, so none leads out of the folder.
        self._files = _read(settings.analytics_js_dir) if settings.analytics_js_dir else {}
        self._script: _File | None = None
        if self._files:
            body = _SAY_WHERE_FROM + self._files[SCRIPT].body
            self._script = _File(CONTENT_TYPES[".js"], CACHE_SHORTLY, body)

    def handlers(self) -> dict[str, Handler]:
        """Return the handler of each pattern, below each prefix that SDKs may have as their CDN."""
        handlers: dict[str, Handler] = {}
        for prefix, _output in PREFIXES:
            handlers[prefix + SCRIPT_PATTERN] = self.script
            handlers[prefix + BUNDLE_PATTERN] = self.bundle
        return handlers

    async def script(self, request: web.Request) -> web.Response:
        """Answer with what the snippet loads, or 404 for a key that is not configured."""
        key = self._keyring.find(request.match_info["key"])
        is_good = key is not None and not key.disabled
        return self._answer(request, self._script if is_good else None)

    async def bundle(self, request: web.Request) -> web.Response:
        """Answer with a file of the folder, most often a chunk."""
        return self._answer(request, self._files.get(request.match_info["file"]))

    def _answer(self, request: web.Request, file: _File | None) -> web.Response:
        headers = self._cors.headers(origin_of(request.headers))
        if file is None:
            return responses.error(NotFound("there is no such script here"), headers)
        headers |= {
            "Server": SERVER,
            "Cache-Control": file.cache_control,
            "ETag": file.etag,
            "Vary": "Accept-Encoding, Origin",
        }
        if request.headers.get(IF_NONE_MATCH) == file.etag:
            return web.Response(status=304, headers=headers)
        headers |= {"Content-Type": file.content_type, "X-Content-Type-Options": "nosniff"}
        if "gzip" not in request.headers.get(ACCEPT_ENCODING, "").lower():
            return web.Response(body=file.body, headers=headers)
        return web.Response(body=file.compressed, headers=headers | {"Content-Encoding": "gzip"})


def _read(folder: Path) -> dict[str, _File]:
    files: dict[str, _File] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix not in CONTENT_TYPES or not path.is_file():
                continue
            with path.open("rb") as opened:
                body = opened.read(FILE_BYTES_MAX + 1)
            if len(body) > FILE_BYTES_MAX or len(files) == FILES_MAX:
                raise SettingsError(
                    f"analytics_js_dir={folder}: expected at most {FILES_MAX} scripts of at most "
                    f"{FILE_BYTES_MAX} bytes, found more at {path.name}"
                )
            is_chunk = CHUNK_MARK in path.name
            files[path.name] = _File(
                CONTENT_TYPES[path.suffix], CACHE_FOR_EVER if is_chunk else CACHE_SHORTLY, body
            )
    except OSError as error:
        raise SettingsError(
            f"analytics_js_dir={folder}: can't be read: {error.strerror or error}"
        ) from error
    if SCRIPT not in files:
        raise SettingsError(
            f"analytics_js_dir={folder}: has no {SCRIPT}; "
            "expected the dist/umd folder of npm's @segment/analytics-next"
        )
    return files
