"""Steps of an event's way that few events need; the loops call them, and so does the reference."""

from __future__ import annotations

import uuid
from typing import Any

from segsrv.events.privacy import is_strict, shorten_addresses
from segsrv.events.sender import Sender
from segsrv.events.shapes import Event, as_object

EVENT_TYPES = frozenset(("track", "identify", "page", "screen", "group", "alias"))

UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104
"""A page names one of these for an event whose address is not to be stored."""


def kind_of(item: Event, sender: Sender) -> str:
    """Return the type of *item*, or what the path says where it has none; `other` if unknown."""
    kind = item.get("type")
    if kind is None:
        kind = sender.event_type
    return kind if kind.__class__ is str and kind in EVENT_TYPES else "other"


def give_user_agent(item: Event, user_agent: str) -> None:
    """Put the request's *user_agent* where *item* names none."""
    context = as_object(item.get("context"), "context", item)
    if context is None:
        context = item["context"] = {}
    if not context.get("userAgent") and not context.get("user_agent"):
        # A header's bytes that are no UTF-8 arrive as surrogates, which JSON can't hold.
        raw = user_agent.encode("utf-8", "surrogateescape")
        context["userAgent"] = raw.decode("utf-8", "replace")


def said_user_agent(operating_system: Any, device: Any) -> Event:
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


def resolution_of(screen: Any) -> str | None:
    """Return *screen* as `1024x768`, None unless it is an object with both sizes."""
    if screen.__class__ is not dict:
        return None
    width, height = _size(screen.get("width")), _size(screen.get("height"))
    return None if width is None or height is None else f"{width}x{height}"


def _size(value: Any) -> Any:
    """Return a size as it is printed: 1024.0 as 1024. What is no number or text is no size."""
    if value.__class__ is float and value.is_integer():
        return int(value)
    return value if value.__class__ in (int, float, str) else None


def tracker_of(event: Event, *, nests: bool) -> Event:
    """Return where a format keeps the tracker's fields; with *nests* the object is made."""
    if not nests:
        return event
    tracker = event.setdefault("eventn_ctx", {})
    return tracker if tracker.__class__ is dict else event


def carried_event_id(event: Event, tracker: Event | None) -> Any:
    """Take the id that an event of another format brings along, or make one."""
    holders = (
        (tracker or {}, "event_id"),
        (event, "eventn_ctx_event_id"),
        (event, "event_id"),
    )
    for holder, name in holders:
        carried = holder.get(name)
        if carried is not None and carried != "":
            del holder[name]
            return carried
    return str(uuid.uuid4())


def apply_privacy(event: Event, user: Any, sender: Sender, country: str | None) -> bool:
    """Do what the policies ask for where *country* is the sender's; say whether the cookie goes.

    *user* is what holds the hash, where that is an object.
    """
    if is_strict(sender.ip_policy, country):
        stored = event.get("source_ip")
        # It can't be told what anything but a text would give away.
        shortened = shorten_addresses(stored) if stored.__class__ is str else ""
        if shortened:
            event["source_ip"] = shortened
        else:
            event.pop("source_ip", None)
    delete_cookie = is_strict(sender.cookie_policy, country)
    if delete_cookie and user.__class__ is dict:
        user["anonymous_id"] = user["hashed_anonymous_id"]
    return delete_cookie
