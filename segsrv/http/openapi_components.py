"""The parts of the HTTP interface's description that its operations share."""

from __future__ import annotations

from typing import Any

from segsrv.settings import Settings

Object = dict[str, Any]
JSON = "application/json"


def components(settings: Settings) -> Object:
    """Return the security schemes, schemas, headers and answers, with the limits of *settings*."""
    return {
        "securitySchemes": SECURITY_SCHEMES,
        "schemas": {
            "Event": _event(settings),
            "Batch": _batch(settings),
            "Body": {
                "description": f"At most {settings.body_bytes_max} bytes after decompression.",
                "oneOf": [schema("Event"), schema("Batch")],
            },
            "ArrayBody": _array_body(settings),
            "BatchBody": {
                "description": f"At most {settings.body_bytes_max} bytes after decompression.",
                "oneOf": [{"allOf": [schema("Event"), {"required": ["type"]}]}, schema("Batch")],
            },
            **_ANSWER_SCHEMAS,
        },
        "headers": _HEADERS,
        "responses": _RESPONSES,
    }


def schema(name: str) -> Object:
    return {"$ref": f"#/components/schemas/{name}"}


def response(name: str) -> Object:
    return {"$ref": f"#/components/responses/{name}"}


def _event(settings: Settings) -> Object:
    limit = settings.event_bytes_max
    return {
        "type": "object",
        "description": f"One event; as stored at most {limit} bytes and 250 levels deep.",
        "minProperties": 1,
        # With this field, an object is a batch.
        "not": {"required": ["batch"]},
        "properties": _EVENT_FIELDS,
        "examples": [
            {
                "type": "track",
                "event": "Order Completed",
                "userId": "u1",
                "messageId": "3f1f9f54-7c6f-4bd5-9fa8-0a7bd6d1d2a1",
                "properties": {"total": 9.5},
            }
        ],
    }


def _batch(settings: Settings) -> Object:
    return {
        "type": "object",
        "description": (
            "Events that are answered as one; items that can't be stored are set aside and "
            "cost their neighbours nothing. `context` and `integrations` are merged into "
            "each item's own, `sentAt` is given to items without; these three, times the items, "
            f"take at most {settings.batch_shared_bytes_max} bytes."
        ),
        "required": ["batch"],
        "properties": {
            "batch": {
                "type": "array",
                "maxItems": settings.batch_events_max,
                "items": {"description": "An event; what is no object is set aside"},
            },
            "context": {},
            "integrations": {},
            "sentAt": {},
            "writeKey": _EVENT_FIELDS["writeKey"],
        },
    }


def _array_body(settings: Settings) -> Object:
    return {
        "description": (
            "One event or an array of events in the format that they are stored in; they are "
            f"completed, but not mapped. At most {settings.body_bytes_max} bytes after "
            "decompression."
        ),
        "oneOf": [
            {"type": "object", "minProperties": 1},
            {
                "type": "array",
                "maxItems": settings.batch_events_max,
                "items": {"description": "An event; what is no object is set aside"},
            },
        ],
    }


_EVENT_FIELDS: Object = {
    "type": {"description": "track, identify, page, screen, group or alias"},
    "event": {"description": "The name of a track event"},
    "messageId": {"description": "The event's id; one is made if it has none"},
    "userId": {},
    "anonymousId": {},
    "groupId": {},
    "previousId": {},
    "name": {"description": "The name of a page or screen"},
    "properties": {},
    "traits": {},
    "context": {},
    "integrations": {},
    "timestamp": {},
    "sentAt": {},
    "writeKey": {"description": "Counts if it is a text and no header or query has a key"},
}

_ANSWER_SCHEMAS: Object = {
    "Ok": {
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {"const": "ok"},
            "delete_cookie": {
                "const": True,
                "description": "The cookie policy asks the client to delete its cookie",
            },
        },
        "additionalProperties": False,
    },
    "Error": {
        "type": "object",
        "description": "`message` and `error` are the same text; SDKs look for one or both.",
        "required": ["status", "code", "message", "error"],
        "properties": {
            "status": {"const": "error"},
            "code": {"type": "string", "minLength": 1},
            "message": {"type": "string", "minLength": 1},
            "error": {"type": "string", "minLength": 1},
        },
        "additionalProperties": False,
    },
    "ProjectSettings": {
        "type": "object",
        "required": ["integrations"],
        "properties": {
            "integrations": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {"type": "object"},
            },
            "metrics": {"type": "object"},
            "plan": {"type": "object"},
        },
    },
    "SourceConfig": {
        "type": "object",
        "required": ["source"],
        "properties": {
            "source": {
                "type": "object",
                "required": ["id", "name", "enabled", "config", "destinations"],
                "properties": {
                    "id": {"type": "string"},
                    "name": {"type": "string"},
                    "enabled": {"type": "boolean"},
                    "config": {"type": "object"},
                    "destinations": {"type": "array", "maxItems": 0},
                },
            },
        },
    },
}

SECURITY_SCHEMES: Object = {
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "The write key is the user; the password is not looked at.",
    },
    "writeKeyHeader": {"type": "apiKey", "in": "header", "name": "X-Write-Key"},
    "authTokenHeader": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
    "apiKeyHeader": {"type": "apiKey", "in": "header", "name": "api_key"},
    "tokenQuery": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "Or the first parameter whose name begins with `p_`.",
    },
    "writeKeyQuery": {
        "type": "apiKey",
        "in": "query",
        "name": "writeKey",
        "description": "In any letter case.",
    },
}

_HEADERS: Object = {
    "Retry-After": {
        "description": "Whole seconds until another try makes sense",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "X-RateLimit-Reset": {
        "description": "The same number, under the name that older SDKs look for",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "Access-Control-Allow-Origin": {
        "description": "The request's `Origin`, if some key may be used from there",
        "schema": {"type": "string"},
    },
    "Vary": {"schema": {"type": "string"}},
}
CORS_HEADERS: Object = {
    name: {"$ref": f"#/components/headers/{name}"}
    for name in ("Access-Control-Allow-Origin", "Vary")
}


def _answer(description: str, name: str, *headers: str) -> Object:
    return {
        "description": description,
        "headers": {
            **CORS_HEADERS,
            **{header: {"$ref": f"#/components/headers/{header}"} for header in headers},
        },
        "content": {JSON: {"schema": schema(name)}},
    }


_RESPONSES: Object = {
    "Ok": _answer("Done", "Ok"),
    "BadRequest": _answer("The body can't be read or is over a limit; never retry", "Error"),
    "Unauthorized": _answer("No write key, or one that is not known here", "Error"),
    "NotFound": _answer("There is nothing here", "Error"),
    "RateLimited": _answer(
        "The key sends more than it may; try again", "Error", "Retry-After", "X-RateLimit-Reset"
    ),
    "Unavailable": _answer("Not now; try again", "Error", "Retry-After", "X-RateLimit-Reset"),
}
