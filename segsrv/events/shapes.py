"""What both mappers share: the context, which values count as absent, which root keys go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

Event = dict[str, Any]
Lookup = Callable[[str], dict[str, Any] | None]

MISSING: Any = object()
"""Marks a key that is not there, where None is a value that moves like any other."""

DROPPED_ROOT_KEYS = ("page", "traits", "userAgent", "campaign", "os", "device", "ip", "locale")
"""Root keys that the mapping removes whoever put them there, a property of that name included."""


class NestedTooDeeply(Exception):
    """A value has more levels than JSON is written with."""


def json_text(value: Any) -> str:
    """Return *value* as JSON, where a text is wanted and the event has something else.

    Raises:
        NestedTooDeeply: It can't be written; nothing else out of a JSON parser can fail.

    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise NestedTooDeeply from error


def line_of(value: Event) -> bytes:
    """Return *value* as a line of JSON.

    A copy of what orjson returns, which keeps the room that it was written in: for a list of
    numbers that is a hundred times its length, and lines wait in memory for a commit.
    """
    return orjson.dumps(value) + b"\n"


def as_object(value: Any, name: str, unmapped: Event) -> Event | None:
    """Return *value* if it is an object, else None; note under `<name>_raw` what else it holds.

    SDKs for PHP send `[]` for an empty map and SDKs for Python send null, so null and empty count
    as absent. Anything else can't be mapped, and is kept for its reader in *unmapped*.
    """
    if value.__class__ is dict:
        found: Event = value
        return found
    if value is not None and value != [] and value != "":
        unmapped[name + "_raw"] = value
    return None
