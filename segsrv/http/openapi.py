"""The description of the HTTP interface (OpenAPI 3.1), made from the paths that are served.

The schemas promise what the server does and no more: it takes any JSON object as an event, so only
what makes it answer 400 is a constraint here, and the fields of events are named without types.
"""

from __future__ import annotations

import base64
import re

import orjson
from aiohttp import web

from segsrv.events import FLAT
from segsrv.http import responses
from segsrv.http.analytics_js import BUNDLE_PATTERN, SCRIPT_PATTERN
from segsrv.http.answers import NO_HEADERS
from segsrv.http.cors import Cors, origin_of
from segsrv.http.openapi_components import (
    CORS_HEADERS,
    JSON,
    SECURITY_SCHEMES,
    Object,
    components,
    response,
    schema,
)
from segsrv.http.paths import (
    PREFIXES,
    Target,
    ingest_paths,
    pixel_paths,
    settings_paths,
    source_config_paths,
    telemetry_paths,
)
from segsrv.settings import Settings

PATH = "/openapi.json"
_NAMES_IN_PATH = re.compile(r"\{(\w+)\}")
HERE: Object = {"url": "."}
"""Relative to the document, so that it holds behind a proxy and mounted below a prefix."""

_DESCRIPTION = """\
Takes events from any SDK of the Segment API. A 200 means that the events are as safe as the \
`durability` setting says. Slashes may be doubled or stand at the end of a path; nothing is ever \
redirected. `OPTIONS` is answered on every path for browsers' preflights. What is not described \
here is 404."""

_PIXEL_DATA = base64.urlsafe_b64encode(
    orjson.dumps({"userId": "u1", "event": "Email Opened", "properties": {"subject": "Hello"}})
).decode()


class OpenApi:
    """Answers `GET /openapi.json` with bytes that are rendered once."""

    def __init__(self, settings: Settings, cors: Cors | None) -> None:
        """Answer beside the described paths, to pages too; without *cors* on a listener apart."""
        self._cors = cors
        self._body = orjson.dumps(document(settings, is_apart=cors is None))

    async def get(self, request: web.Request) -> web.Response:
        """Answer with the description; it needs no key."""
        headers = self._cors.headers(origin_of(request.headers)) if self._cors else NO_HEADERS
        return responses.ok(self._body, headers)


def document(settings: Settings, *, is_apart: bool = False) -> Object:
    """Return the description of a server with *settings*.

    With *is_apart* it is read on the operators' own listener, where the pages of operators are.
    """
    from segsrv import __version__  # noqa: PLC0415 - the package imports this module's siblings.

    paths: Object = {}
    for path, target in ingest_paths().items():
        paths[path] = {"post": _ingest(path, target)}
    for path, target in pixel_paths().items():
        paths[path] = {"get": _pixel(path, target)}
    for path in telemetry_paths():
        paths[path] = {"post": _telemetry(path)}
    for pattern in settings_paths():
        paths[pattern] = {"get": _project_settings(pattern)}
    for path in source_config_paths():
        paths[path] = {"get": _source_config(path)}
    for prefix, _output in PREFIXES:
        paths[prefix + SCRIPT_PATTERN] = {"get": _script(prefix + SCRIPT_PATTERN, "key")}
        paths[prefix + BUNDLE_PATTERN] = {"get": _script(prefix + BUNDLE_PATTERN, "file")}
    paths |= _operations(is_apart=is_apart)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "segsrv",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [_public_server(settings)] if is_apart else [HERE],
        "tags": [
            {"name": "ingest", "description": "Events in"},
            {"name": "sdk", "description": "What SDKs ask and report besides"},
            {"name": "operations", "description": "For operators' tools; no key needed"},
        ],
        "paths": paths,
        "components": components(settings),
    }


def _ingest(path: str, target: Target) -> Object:
    event_type = target.event_type
    together = "an array of events" if target.takes_array else "a batch"
    what = f"one event or {together}" if event_type is None else f"{event_type} events"
    type_note = "" if event_type is None else f" An event without `type` is `{event_type}`."
    name = "ArrayBody" if target.takes_array else "BatchBody" if target.is_batch else "Body"
    body = {"schema": schema(name)}
    return {
        "operationId": _operation_id("post", path),
        "tags": ["ingest"],
        "summary": f"Take {what}, stored in {_format(target)}",
        "description": f"The Content-Type is not looked at.{type_note}",
        # The empty one: the key may also be `writeKey` in the body.
        "security": [*({name: []} for name in SECURITY_SCHEMES), {}],
        "parameters": [
            _policy("ip_policy", "what is stored of the client's address"),
            _policy("cookie_policy", "what is stored of the anonymous id"),
            *map(_made_up, _NAMES_IN_PATH.findall(path)),
        ],
        "requestBody": {
            "required": True,
            "description": (
                "JSON, in UTF-8. `Content-Encoding` may be one of gzip (or x-gzip), deflate, br "
                "and zstd."
            ),
            "content": {JSON: body, "text/plain": body},
        },
        "responses": {
            "200": response("Ok"),
            "400": response("BadRequest"),
            "401": response("Unauthorized"),
            "429": response("RateLimited"),
            "503": response("Unavailable"),
        },
    }


def _format(target: Target) -> str:
    if target.output is FLAT:
        return "the key's format, by default the flat one"
    return f"the {target.output.name} format"


def _made_up(name: str) -> Object:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": "Any text; it means nothing",
        "schema": {"type": "string", "minLength": 1},
    }


def _pixel(path: str, target: Target) -> Object:
    def image(description: str, *headers: str) -> Object:
        return {
            "description": description,
            "headers": {
                **CORS_HEADERS,
                "Cache-Control": {"schema": {"type": "string"}},
                **{header: {"$ref": f"#/components/headers/{header}"} for header in headers},
            },
            "content": {"image/gif": {}},
        }

    return {
        "operationId": _operation_id("get", path),
        "tags": ["ingest"],
        "summary": f"Take a {target.event_type} event, stored in {_format(target)}",
        "description": (
            "The answer is a transparent image of one point, whatever its status. `HEAD` is "
            "answered the same and takes nothing. An event without `context.userAgent` gets the "
            "request's. In place of `data`, the event's fields may be parameters; dots in a name "
            "say where its value belongs, as in `properties.subject`."
        ),
        "security": [*({name: []} for name in SECURITY_SCHEMES), {}],
        "parameters": [
            {
                "name": "data",
                "in": "query",
                "required": True,
                "description": (
                    "The event as JSON in base64, of either alphabet, with or without padding. "
                    "A request's target may have 8190 bytes."
                ),
                "schema": {
                    "type": "string",
                    "contentEncoding": "base64",
                    "contentMediaType": JSON,
                    "contentSchema": schema("Event"),
                },
                "examples": {"an opened mail": {"value": _PIXEL_DATA}},
            },
            _policy("ip_policy", "what is stored of the client's address"),
            _policy("cookie_policy", "what is stored of the anonymous id"),
        ],
        "responses": {
            "200": image("Taken"),
            "400": image("The event can't be read or is over a limit"),
            "401": image("No write key, or one that is not known here"),
            "429": image("Too many events of this key", "Retry-After", "X-RateLimit-Reset"),
            "503": image("Not now", "Retry-After", "X-RateLimit-Reset"),
        },
    }


def _telemetry(path: str) -> Object:
    return {
        "operationId": _operation_id("post", path),
        "tags": ["sdk"],
        "summary": "Swallow what an SDK reports of itself",
        "requestBody": {"content": {"*/*": {}}},
        "responses": {
            "200": response("Ok"),
            "400": response("BadRequest"),
            "503": response("Unavailable"),
        },
    }


def _project_settings(pattern: str) -> Object:
    return {
        "operationId": _operation_id("get", pattern),
        "tags": ["sdk"],
        "summary": "Give an SDK the settings that it needs to start",
        "parameters": [
            {
                "name": "key",
                "in": "path",
                "required": True,
                "description": "A write key",
                "schema": {"type": "string", "minLength": 1},
            },
            {
                "name": "If-None-Match",
                "in": "header",
                "description": "An `ETag` of an earlier answer",
                "schema": {"type": "string"},
            },
        ],
        "responses": {
            "200": {
                "description": "The project's settings",
                "headers": {
                    **CORS_HEADERS,
                    "Cache-Control": {"schema": {"type": "string"}},
                    "ETag": {"schema": {"type": "string"}},
                },
                "content": {JSON: {"schema": schema("ProjectSettings")}},
            },
            "304": {"description": "They are the ones that the client has"},
            "404": response("NotFound"),
        },
    }


def _source_config(path: str) -> Object:
    return {
        "operationId": _operation_id("get", path),
        "tags": ["sdk"],
        "summary": "Give RudderStack's browser SDK the settings that it needs to start",
        # The empty one: a query parameter may have the key under a name that no scheme can say.
        "security": [*({name: []} for name in SECURITY_SCHEMES), {}],
        "responses": {
            "200": {
                "description": "The source, which has no destinations",
                "headers": CORS_HEADERS,
                "content": {JSON: {"schema": schema("SourceConfig")}},
            },
            "401": response("Unauthorized"),
        },
    }


def _script(pattern: str, parameter: str) -> Object:
    code = {"text/javascript": {"schema": {"type": "string"}}}
    return {
        "operationId": _operation_id("get", pattern),
        "tags": ["sdk"],
        "summary": "Give a page the browser SDK, where the operator has it",
        "parameters": [
            {
                "name": parameter,
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
            }
        ],
        "responses": {
            "200": {
                "description": "The script",
                "headers": {
                    **CORS_HEADERS,
                    "Cache-Control": {"schema": {"type": "string"}},
                    "ETag": {"schema": {"type": "string"}},
                },
                "content": code,
            },
            "304": {"description": "It is the one that the client has"},
            "404": response("NotFound"),
        },
    }


def _public_server(settings: Settings) -> Object:
    scheme = "https" if settings.tls_cert else "http"
    base = {"default": f"{scheme}://localhost:{settings.port}"}
    return {"url": "{base}", "description": "Where events are taken", "variables": {"base": base}}


def _operations(*, is_apart: bool) -> Object:
    def get(path: str, summary: str, answers: Object) -> Object:
        apart: Object = {"servers": [HERE]} if is_apart else {}
        return apart | {
            "get": {
                "operationId": _operation_id("get", path),
                "tags": ["operations"],
                "summary": summary,
                "responses": answers,
            }
        }

    text = {"text/plain": {"schema": {"type": "string"}}}
    this = {JSON: {"schema": {"type": "object", "required": ["openapi", "paths"]}}}
    return {
        "/health": get("/health", "Say that the process runs", {"200": response("Ok")}),
        "/ready": get(
            "/ready",
            "Say whether events can be taken",
            _readiness() if is_apart else {"200": response("Ok"), "503": response("Unavailable")},
        ),
        "/metrics": get(
            "/metrics",
            "Give the metrics",
            {"200": {"description": "Prometheus text", "content": text}},
        ),
        PATH: get(
            PATH,
            "Give this description",
            {"200": {"description": "OpenAPI", "headers": CORS_HEADERS, "content": this}},
        ),
    }


def _readiness() -> Object:
    worker: Object = {
        "type": "object",
        "required": ["worker", "ready"],
        "properties": {
            "worker": {"type": "integer", "minimum": 0},
            "ready": {"type": "boolean"},
            "code": {"type": "string", "description": "Why not, for programs"},
            "message": {"type": "string", "description": "Why not, for people"},
            "pending_bytes": {"type": "integer", "description": "Not in the journal yet"},
            "undelivered_bytes": {"type": "integer", "description": "Some sink still lacks them"},
        },
    }

    def answer(status: str, description: str, *further: str) -> Object:
        body: Object = {
            "type": "object",
            "required": ["status", "workers", *further],
            "properties": {
                "status": {"const": status},
                "workers": {"type": "array", "minItems": 1, "items": worker},
                **{name: {"type": "string"} for name in further},
            },
        }
        return {"description": description, "content": {JSON: {"schema": body}}}

    return {
        "200": answer("ok", "Every worker takes events"),
        "503": answer("error", "Some worker takes none now", "code", "message", "error"),
    }


def _policy(name: str, what: str) -> Object:
    return {
        "name": name,
        "in": "query",
        "description": f"Decides {what}: keep, strict or comply. Another word changes nothing.",
        "schema": {"type": "string"},
        "examples": {word: {"value": word} for word in ("keep", "strict", "comply")},
    }


def _operation_id(method: str, path: str) -> str:
    words = [method, *path.replace("{", "by_").replace("}", "").replace(".", "_").split("/")]
    return "_".join(word for word in words if word)
