"""What is done to a mapped event of either format: ids, stamps, enrichment, privacy."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import md5
from typing import Any
from zoneinfo import ZoneInfo

from segsrv.events.clock import correct_timestamp, text_of
from segsrv.events.privacy import Policy, is_strict, shorten_addresses
from segsrv.events.shapes import Event, json_text

ZONES_MAX = 1_024
# What goes into a cache is short: a client must not fill memory with texts that it makes up.
ZONE_CHARS_MAX = 64
UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104
"""A page names one of these for an event whose address is not to be stored."""
Lookup = Callable[[str], dict[str, Any] | None]


@dataclass(slots=True, kw_only=True)
class Sender:
    """What the request says of who sent its events; the same for all events of a batch.

    `api_key` is stored as it is, None not at all. `address` is the client's, empty when unknown;
    `user_agent` is the request's header. `event_type` is for events without one, where the path
    names it. `is_client` says that the events come from the user's own device, and so take its
    address; `gives_user_agent`, that those which name no user agent take the request's.
    """

    api_key: str | None
    address: str = ""
    user_agent: str = ""
    cookie_policy: Policy = "keep"
    ip_policy: Policy = "keep"
    event_type: str | None = None
    is_client: bool = False
    gives_user_agent: bool = False
    correct_timestamps: bool = False


class Moment:
    """The time of a request's receipt, in the forms that its events need."""

    __slots__ = ("minute", "now", "timestamp")

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.minute = now.replace(second=0, microsecond=0)
        self.timestamp = text_of(now)


def finish(
    event: Event,
    sender: Sender,
    *,
    is_compat: bool,
    moment: Moment,
    parse_user_agent: Lookup,
    locate: Lookup,
) -> bool:
    """Complete a mapped *event* in place; return whether its cookie is to be deleted.

    The order matters: the zone and the screen may make the `eventn_ctx` that the event id then goes
    into, and the address is shortened only after the hash and the look-up.

    Raises:
        NestedTooDeeply: The id or the address is an object of too many levels.

    """
    _place_timezone(event, moment.minute, is_compat=is_compat)
    _place_screen(event, is_compat=is_compat)
    tracker = event.get("eventn_ctx")
    if tracker.__class__ is not dict:
        tracker = None
    _place_event_id(event, tracker)

    source = event.get("source_ip")
    if not source or (sender.is_client and source not in UNSPECIFIED):
        source = sender.address
        if source:
            event["source_ip"] = source
    if source.__class__ is not str:
        source = json_text(source)
    event["src"] = "segment_api"
    if sender.api_key is not None:
        event["api_key"] = sender.api_key
    if sender.correct_timestamps:
        correct_timestamp(event, moment.now)
    if event.get("_timestamp") is None:
        event["_timestamp"] = moment.timestamp

    user = None if tracker is None else tracker.get("user")
    if user.__class__ is not dict:
        user = event.get("user")
    if user.__class__ is dict:
        identity = source + sender.user_agent
        hashed = md5(identity.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
        user["hashed_anonymous_id"] = hashed

    _enrich(event if tracker is None else tracker, source, parse_user_agent, locate)
    if sender.cookie_policy == "keep" and sender.ip_policy == "keep":
        return False
    return _apply_privacy(event, user, source, sender, locate)


def _place_timezone(event: Event, minute: datetime, *, is_compat: bool) -> None:
    zone = event.pop("timezone", None)
    if zone.__class__ is not str or len(zone) > ZONE_CHARS_MAX:
        return
    minutes = _offset_minutes(zone, minute)
    if minutes is not None:
        _target(event, is_compat=is_compat)["local_tz_offset"] = minutes


@lru_cache(maxsize=ZONES_MAX)
def _offset_minutes(zone: str, minute: datetime) -> float | None:
    """Return the zone's UTC offset in that minute, whole where it is whole; None if unknown."""
    try:
        offset = minute.astimezone(ZoneInfo(zone)).utcoffset()
    except Exception:  # noqa: BLE001
        # An unknown name is looked for as a file and as part of a Python package, so it can fail
        # in any way that these can.
        return None
    if offset is None:
        return None
    minutes = offset.total_seconds() / 60
    return int(minutes) if minutes.is_integer() else minutes


def _place_screen(event: Event, *, is_compat: bool) -> None:
    screen = event.get("screen")
    if screen.__class__ is not dict:
        return
    width, height = _size(screen.get("width")), _size(screen.get("height"))
    if width is not None and height is not None:
        del event["screen"]
        _target(event, is_compat=is_compat)["screen_resolution"] = f"{width}x{height}"


def _size(value: Any) -> Any:
    """Return a size as it is printed: 1024.0 as 1024. What is no number or text is no size."""
    if value.__class__ is float and value.is_integer():
        return int(value)
    return value if value.__class__ in (int, float, str) else None


def _target(event: Event, *, is_compat: bool) -> Event:
    """Return where this format keeps the tracker's fields, making the object if it must."""
    if not is_compat:
        return event
    tracker = event.setdefault("eventn_ctx", {})
    return tracker if tracker.__class__ is dict else event


def _place_event_id(event: Event, tracker: Event | None) -> None:
    event_id = event.pop("messageId", None)
    if event_id is None or event_id == "":
        event_id = _carried_event_id(event, tracker)
    if event_id.__class__ is not str:
        event_id = json_text(event_id)
    if tracker is None:
        event["eventn_ctx_event_id"] = event_id
    else:
        tracker["event_id"] = event_id


def _carried_event_id(event: Event, tracker: Event | None) -> Any:
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


def _enrich(holder: Event, source: str, parse_user_agent: Lookup, locate: Lookup) -> None:
    """Add `parsed_ua` and `location`, unless the event says them itself."""
    user_agent = holder.get("user_agent")
    if user_agent and user_agent.__class__ is str and not holder.get("parsed_ua"):
        parsed = parse_user_agent(user_agent)
        if parsed:
            holder["parsed_ua"] = parsed
    if source and not holder.get("location"):
        location = locate(source)
        if location:
            holder["location"] = location


def _apply_privacy(event: Event, user: Any, source: str, sender: Sender, locate: Lookup) -> bool:
    located = locate(source) if source else None
    country = located.get("country") if located else None
    if is_strict(sender.ip_policy, country):
        shortened = shorten_addresses(source)
        if shortened:
            event["source_ip"] = shortened
        else:
            event.pop("source_ip", None)
    delete_cookie = is_strict(sender.cookie_policy, country)
    if delete_cookie and user.__class__ is dict:
        user["anonymous_id"] = user["hashed_anonymous_id"]
    return delete_cookie
