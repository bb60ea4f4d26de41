"""What is done to a mapped event of any format: ids, stamps, enrichment, privacy."""

from __future__ import annotations

from hashlib import md5
from typing import Any

from segsrv.events.clock import correct_timestamp
from segsrv.events.sender import Moment, Sender
from segsrv.events.shapes import Event, Lookup, json_text
from segsrv.events.steps import (
    UNSPECIFIED,
    apply_privacy,
    carried_event_id,
    resolution_of,
    tracker_of,
)


def finish(
    event: Event,
    sender: Sender,
    *,
    event_id: Any,
    nests_tracker_fields: bool,
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
    _place_timezone(event, moment, nests=nests_tracker_fields)
    _place_screen(event, nests=nests_tracker_fields)
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
    located = locate(source) if source else None
    country = located.get("country") if located else None
    return stored_id, apply_privacy(event, user, sender, country)


def _place_timezone(event: Event, moment: Moment, *, nests: bool) -> None:
    zone = event.pop("timezone", None)
    if zone.__class__ is not str:
        return
    minutes = moment.offset_of(zone)
    if minutes is not None:
        tracker_of(event, nests=nests)["local_tz_offset"] = minutes


def _place_screen(event: Event, *, nests: bool) -> None:
    resolution = resolution_of(event.get("screen"))
    if resolution is not None:
        del event["screen"]
        tracker_of(event, nests=nests)["screen_resolution"] = resolution


def _place_event_id(event: Event, tracker: Event | None, event_id: Any) -> str:
    if event_id is None or event_id == "":
        event_id = carried_event_id(event, tracker)
    if event_id.__class__ is not str:
        event_id = json_text(event_id)
    if tracker is None:
        event["eventn_ctx_event_id"] = event_id
    else:
        tracker["event_id"] = event_id
    stored_id: str = event_id
    return stored_id


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
