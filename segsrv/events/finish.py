"""What is done to a mapped event of any format: ids, stamps, enrichment, privacy."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import md5
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from segsrv.events.clock import correct_timestamp, text_of
from segsrv.events.formats import Format
from segsrv.events.privacy import Policy, is_strict, shorten_addresses
from segsrv.events.shapes import Event, Lookup, json_text

ZONES = frozenset(available_timezones())
"""Asked first: a name that is none is looked for in files and packages, which takes longer."""
ZONES_MAX = 1_024
UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104
"""A page names one of these for an event whose address is not to be stored."""


@dataclass(slots=True, kw_only=True)
class Sender:
    """What the request says of who sent its events; the same for all events of a batch.

    `api_key` is stored as it is, None not at all. `address` is the client's, empty when unknown;
    `user_agent` is the request's header, its bytes that are no UTF-8 as surrogate escapes.
    `event_type` is for events without one, where the path
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
    event_id: Any,
    output: Format,
    moment: Moment,
    parse_user_agent: Lookup,
    locate: Lookup,
) -> tuple[str, bool]:
    """Complete a mapped *event* in place; return its id, and whether its cookie is to be deleted.

    *event_id* is the event's own `messageId`, None if it has none: after the mapping, a property of
    that name could not be told from it.
    The order matters: the zone and the screen may make the `eventn_ctx` that the event id then goes
    into, and the address is shortened only after the hash and the look-up.

    Raises:
        NestedTooDeeply: The id is an object of too many levels.

    """
    _place_timezone(event, output, moment.minute)
    _place_screen(event, output)
    tracker = event.get("eventn_ctx")
    if tracker.__class__ is not dict:
        tracker = None
    stored_id = _place_event_id(event, tracker, event_id)

    source = event.get("source_ip")
    if source is None or source == "" or (sender.is_client and source not in UNSPECIFIED):
        source = sender.address
        if source:
            event["source_ip"] = source
    elif source.__class__ is not str:
        # Stored as it came, but nothing can be found by it.
        source = sender.address
    event["src"] = "segment_api"
    if sender.api_key is not None:
        event["api_key"] = sender.api_key
    else:
        event.pop("api_key", None)
    if sender.correct_timestamps:
        correct_timestamp(event, moment.now)
    if event.get("_timestamp") is None:
        event["_timestamp"] = moment.timestamp

    user = None if tracker is None else tracker.get("user")
    if user.__class__ is not dict:
        user = event.get("user")
    if user.__class__ is dict:
        # The escapes stand for bytes of the header that are no UTF-8: they are hashed as sent.
        identity = (source + sender.user_agent).encode("utf-8", "surrogateescape")
        user["hashed_anonymous_id"] = md5(identity, usedforsecurity=False).hexdigest()

    _enrich(event, event if tracker is None else tracker, source, parse_user_agent, locate)
    if sender.cookie_policy == "keep" and sender.ip_policy == "keep":
        return stored_id, False
    return stored_id, _apply_privacy(event, user, source, sender, locate)


def _place_timezone(event: Event, output: Format, minute: datetime) -> None:
    zone = event.pop("timezone", None)
    if zone.__class__ is not str or zone not in ZONES:
        return
    minutes = _offset_minutes(zone, minute)
    if minutes is not None:
        _target(event, output)["local_tz_offset"] = minutes


@lru_cache(maxsize=ZONES_MAX)
def _offset_minutes(zone: str, minute: datetime) -> float | None:
    """Return the zone's UTC offset in that minute, whole where it is whole; None if unknown."""
    try:
        offset = minute.astimezone(ZoneInfo(zone)).utcoffset()
    except (OSError, ValueError, KeyError):
        # The system's files may have been damaged, or be about to be replaced.
        return None
    if offset is None:
        return None
    minutes = offset.total_seconds() / 60
    return int(minutes) if minutes.is_integer() else minutes


def _place_screen(event: Event, output: Format) -> None:
    screen = event.get("screen")
    if screen.__class__ is not dict:
        return
    width, height = _size(screen.get("width")), _size(screen.get("height"))
    if width is not None and height is not None:
        del event["screen"]
        _target(event, output)["screen_resolution"] = f"{width}x{height}"


def _size(value: Any) -> Any:
    """Return a size as it is printed: 1024.0 as 1024. What is no number or text is no size."""
    if value.__class__ is float and value.is_integer():
        return int(value)
    return value if value.__class__ in (int, float, str) else None


def _target(event: Event, output: Format) -> Event:
    """Return where this format keeps the tracker's fields, making the object if it must."""
    if not output.nests_tracker_fields:
        return event
    tracker = event.setdefault("eventn_ctx", {})
    return tracker if tracker.__class__ is dict else event


def _place_event_id(event: Event, tracker: Event | None, event_id: Any) -> str:
    if event_id is None or event_id == "":
        event_id = _carried_event_id(event, tracker)
    if event_id.__class__ is not str:
        event_id = json_text(event_id)
    if tracker is None:
        event["eventn_ctx_event_id"] = event_id
    else:
        tracker["event_id"] = event_id
    stored_id: str = event_id
    return stored_id


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


def _enrich(
    event: Event, holder: Event, source: str, parse_user_agent: Lookup, locate: Lookup
) -> None:
    """Add `parsed_ua` and `location` to *holder*, unless the event says them itself there."""
    user_agent = holder.get("user_agent") or event.get("user_agent")
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
