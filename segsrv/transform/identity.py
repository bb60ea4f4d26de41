"""Where a stored event keeps its id and its type, by its format; for who changes stored events."""

from __future__ import annotations

from typing import Any

Event = dict[str, Any]

SEGMENT = "segment"
TYPES = frozenset({"track", "identify", "page", "screen", "group", "alias"})
_TRACKER = "eventn_ctx"
_NESTED_ID = "event_id"
_FLAT_ID = "eventn_ctx_event_id"


def id_of(event: Event, output: str) -> str:
    """Return the id in an event of the format *output*; empty if there is no text."""
    if output == SEGMENT:
        found = event.get("messageId")
    else:
        tracker = event.get(_TRACKER)
        found = tracker.get(_NESTED_ID) if isinstance(tracker, dict) else None
        found = found or event.get(_FLAT_ID)
    return found if isinstance(found, str) else ""


def with_id(event: Event, output: str, event_id: str) -> Event:
    """Return a copy of *event* with this id where its format keeps it."""
    if output == SEGMENT:
        return {**event, "messageId": event_id}
    tracker = event.get(_TRACKER)
    if isinstance(tracker, dict):
        return {**event, _TRACKER: {**tracker, _NESTED_ID: event_id}}
    if output == "compat":
        return {**event, _TRACKER: {_NESTED_ID: event_id}}
    return {**event, _FLAT_ID: event_id}


def type_of(event: Event, output: str) -> str:
    """Return the type of call that an event says it is; empty if it says none that is known."""
    found = event.get("type" if output == SEGMENT else "event_type")
    return found if isinstance(found, str) and found in TYPES else ""
