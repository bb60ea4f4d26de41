"""Maps a Segment event to the deprecated format: the tracker's own fields are in `eventn_ctx`.

The rules are those of the Jitsu 1.44 default table `compatibility.segment_compat.endpoint`: the
flat table with most destinations under `/eventn_ctx`, without `user.id`, and with `location` taken
off the root. `flat.py` names the habits of the table that decide the corners.
"""

from __future__ import annotations

from segsrv.events.reference.context import map_context
from segsrv.events.shapes import DROPPED_ROOT_KEYS, MISSING, Event, as_object


def map_compat(event: Event) -> Event:
    """Return *event* in the compat format; the dict given is consumed and returned.

    Never fails on an object that JSON can hold.
    """
    unmapped: Event = {}
    tracker: Event = {}
    context = as_object(event.pop("context", None), "context", unmapped)
    properties = as_object(event.pop("properties", None), "properties", unmapped)
    user = as_object(event.pop("traits", None), "traits", unmapped)
    anonymous_id = event.pop("anonymousId", MISSING)
    user_id = event.pop("userId", MISSING)
    event_type = event.pop("type", MISSING)

    if context is not None:
        traits = map_context(event, tracker, context, unmapped)
        # The context's traits replace the event's own, even where they are an empty object.
        user = user if traits is None else traits

    if anonymous_id is not MISSING or user_id is not MISSING:
        ids = tracker["ids"] = {}
        if user is None:
            user = {}
        if anonymous_id is not MISSING:
            ids["ajs_anonymous_id"] = user["anonymous_id"] = anonymous_id
        if user_id is not MISSING:
            ids["ajs_user_id"] = user["internal_id"] = user_id
    if user is not None:
        tracker["user"] = user
    if event_type is not MISSING:
        event["event_type"] = event_type

    if tracker:
        event["eventn_ctx"] = tracker
    if properties is not None:
        event.update(properties)
    if context is not None:
        event.update(context)
    for key in DROPPED_ROOT_KEYS:
        event.pop(key, None)
    event.pop("location", None)
    if unmapped:
        event.update(unmapped)
    return event
