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


def map_context(event: Event, target: Event, context: Event, unmapped: Event) -> Event | None:
    """Move what the rules name out of *context* to *target*, where the tracker's fields are kept.

    Returns the context's traits if they are an object. The caller lays what stays in *context* over
    the root. `location` and `user_agent` are copied and not moved: the table lays the whole context
    over the root, and only a rule of its own takes a field off it again.
    """
    page = context.pop("page", MISSING)
    if page is not MISSING:
        target["doc"] = page
        if page.__class__ is dict:
            if "title" in page:
                target["page_title"] = page.pop("title")
            if "referrer" in page:
                target["referer"] = page["referrer"]

    user_agent = context.pop("userAgent", MISSING)
    if "user_agent" in context:
        user_agent = context["user_agent"]
    if user_agent is not MISSING:
        target["user_agent"] = user_agent

    campaign = context.pop("campaign", MISSING)
    if campaign is not MISSING:
        target["utm"] = campaign
        if campaign.__class__ is dict and "name" in campaign:
            campaign["campaign"] = campaign["name"]

    if "location" in context:
        target["location"] = context["location"]

    referrer = context.get("referrer")
    if referrer.__class__ is dict and "url" in referrer:
        target["referer"] = referrer.pop("url")

    operating_system, device = context.pop("os", None), context.pop("device", None)
    if operating_system is not None or device is not None:
        parsed = _parsed_user_agent(operating_system, device)
        if parsed:
            target["parsed_ua"] = parsed

    locale = context.pop("locale", MISSING)
    if locale is not MISSING:
        target["user_language"] = locale
    ip = context.pop("ip", MISSING)
    if ip is not MISSING:
        event["source_ip"] = ip

    return as_object(context.pop("traits", None), "traits", unmapped)


def _parsed_user_agent(operating_system: Any, device: Any) -> Event:
    """Return the `parsed_ua` fields that `context.os` and `context.device` give by themselves.

    Empty texts give none: RudderStack's browser SDK sends `{"name": "", "version": ""}`.
    """
    parsed: Event = {}
    if operating_system.__class__ is dict:
        _move(operating_system, _OS_FIELDS, parsed)
    if device.__class__ is dict:
        _move(device, _DEVICE_FIELDS, parsed)
    return parsed


def _move(said: Event, names: tuple[tuple[str, str], ...], parsed: Event) -> None:
    for source, target in names:
        if source in said and said[source] != "":
            parsed[target] = said[source]


_OS_FIELDS = (("name", "os_family"), ("version", "os_version"))


_DEVICE_FIELDS = (
    ("manufacturer", "device_brand"),
    ("model", "device_model"),
    ("version", "ua_version"),
    ("advertisingId", "device_advertising_id"),
    ("id", "device_id"),
    ("name", "device_name"),
    ("type", "device_type"),
)
