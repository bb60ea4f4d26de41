"""Maps a Segment event to the flat format, the JS SDK 2.0 structure.

The rules are those of the Jitsu 1.44 default table `compatibility.segment.endpoint`, written out by
hand. Three habits of that table decide the corners and are kept: an object is moved itself, not
copied (`doc` is the event's own `page`); properties and then the context are laid over the root
after every other rule; a few root keys are removed last, whoever put them there.
"""

from __future__ import annotations

from segsrv.events.reference.context import map_context
from segsrv.events.shapes import DROPPED_ROOT_KEYS, MISSING, Event, as_object


def map_flat(event: Event) -> Event:
    """Return *event* in the flat format; the dict given is consumed and returned.

    Never fails on an object that JSON can hold.
    """
    unmapped: Event = {}
    context = as_object(event.pop("context", None), "context", unmapped)
    properties = as_object(event.pop("properties", None), "properties", unmapped)
    user = as_object(event.pop("traits", None), "traits", unmapped)
    anonymous_id = event.pop("anonymousId", MISSING)
    user_id = event.pop("userId", MISSING)
    event_type = event.pop("type", MISSING)

    if context is not None:
        traits = map_context(event, event, context, unmapped)
        # The context's traits replace the event's own, even where they are an empty object.
        user = user if traits is None else traits

    if anonymous_id is not MISSING or user_id is not MISSING:
        ids = event["ids"] = {}
        if user is None:
            user = {}
        if anonymous_id is not MISSING:
            ids["ajs_anonymous_id"] = user["anonymous_id"] = anonymous_id
        if user_id is not MISSING:
            ids["ajs_user_id"] = user["internal_id"] = user["id"] = user_id
    if user is not None:
        event["user"] = user
    if event_type is not MISSING:
        event["event_type"] = event_type

    if properties is not None:
        event.update(properties)
    if context is not None:
        event.update(context)
    for key in DROPPED_ROOT_KEYS:
        event.pop(key, None)
    if unmapped:
        event.update(unmapped)
    return event
