"""Stores Segment events in either of their formats: all steps from item to line in one loop.

`reference` says the same step by step, and is to be read first. Here each step stands where its
call would cost more than the step does. Most events have what is taken off with `pop`; what few
have is asked for first. Keys are set in the order in which the reference sets them.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

import orjson

from segsrv.events.batches import Batch
from segsrv.events.clock import correct_timestamp
from segsrv.events.formats import Format
from segsrv.events.lookups import NONE_KNOWN, Lookups
from segsrv.events.outcome import SMALL_LINE_BYTES_MAX, Outcome, refuse
from segsrv.events.sender import Moment, Sender
from segsrv.events.shapes import (
    DROPPED_ROOT_KEYS,
    MISSING,
    Event,
    NestedTooDeeply,
    as_object,
    json_text,
)
from segsrv.events.steps import (
    EVENT_TYPES,
    UNSPECIFIED,
    apply_privacy,
    carried_event_id,
    give_user_agent,
    resolution_of,
    said_user_agent,
    tracker_of,
)


def store(  # noqa: PLR0915
    items: list[Any],
    count: int,
    output: Format,
    sender: Sender,
    moment: Moment,
    batch: Batch | None,
    lookups: Lookups,
    event_bytes_max: int,
    outcome: Outcome,
) -> None:
    """Take up to *count* of *items* off their end, and add what becomes of them to *outcome*.

    One that is large, has a text that no cache keeps or can't be stored is the last: it takes long
    enough for others to go on.
    """
    dumps, encode_error = orjson.dumps, orjson.JSONEncodeError
    add_line, add_id, add_kind = outcome.lines.append, outcome.ids.append, outcome.kinds.append
    places, find_agent = lookups.places, lookups.user_agents.find
    known_agents = lookups.user_agents.cache.newer
    zones, timestamp = moment.zones, moment.timestamp
    api_key, address, agent = sender.api_key, sender.address, sender.user_agent
    known_places = places.newer.get(agent, NONE_KNOWN)
    is_client, path_type = sender.is_client, sender.event_type
    gives_agent = sender.gives_user_agent and agent != ""
    corrects = sender.correct_timestamps
    has_policies = sender.cookie_policy != "keep" or sender.ip_policy != "keep"
    nests = output.nests_tracker_fields
    gives_parts, plain_context, sent_at = False, None, None
    if batch is not None:
        gives_parts, plain_context, sent_at = batch.gives_parts, batch.plain_context, batch.sent_at
    agent_hits = place_hits = 0
    takes_long = False
    for _ in repeat(None, count):
        event = items.pop()
        if event.__class__ is not dict:
            is_batch = batch is not None
            refuse(outcome, event, "not_an_object", sender, moment, event_bytes_max, is_batch)
            break
        unmapped: Event | None = None
        if batch is not None:
            if gives_parts or (
                plain_context is not None
                and event.get("context", plain_context).__class__ is not dict
            ):
                batch.give(event)
            elif sent_at is not None and event.get("sentAt") is None:
                event["sentAt"] = sent_at
        if gives_agent:
            give_user_agent(event, agent)

        context = event.pop("context", None)
        properties = event.pop("properties", None)
        kind = event.pop("type", MISSING)
        event_id = event.pop("messageId", None)
        user = None
        target = {} if nests else event
        if context is not None and context.__class__ is not dict:
            unmapped = {}
            context = as_object(context, "context", unmapped)
        if properties is not None and properties.__class__ is not dict:
            unmapped = unmapped or {}
            properties = as_object(properties, "properties", unmapped)
        if "traits" in event:
            user = event.pop("traits")
            if user.__class__ is not dict:
                unmapped = unmapped or {}
                user = as_object(user, "traits", unmapped)
        anonymous_id = event.pop("anonymousId", MISSING)
        user_id = event.pop("userId", MISSING)

        if context is not None:
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
                target["user_agent"] = context["user_agent"]
            elif user_agent is not MISSING:
                target["user_agent"] = user_agent
            if "campaign" in context:
                campaign = target["utm"] = context.pop("campaign")
                if campaign.__class__ is dict and "name" in campaign:
                    campaign["campaign"] = campaign["name"]
            if "location" in context:
                target["location"] = context["location"]
            if "referrer" in context:
                referrer = context["referrer"]
                if referrer.__class__ is dict and "url" in referrer:
                    target["referer"] = referrer.pop("url")
            if "os" in context or "device" in context:
                said = said_user_agent(context.pop("os", None), context.pop("device", None))
                if said:
                    target["parsed_ua"] = said
            if "locale" in context:
                target["user_language"] = context.pop("locale")
            if "ip" in context:
                event["source_ip"] = context.pop("ip")
            if "traits" in context:
                traits = context.pop("traits")
                if traits.__class__ is not dict:
                    unmapped = unmapped or {}
                    traits = as_object(traits, "traits", unmapped)
                if traits is not None:
                    user = traits

        if anonymous_id is not MISSING or user_id is not MISSING:
            if user is None:
                user = {}
            if user_id is MISSING:
                target["ids"] = {"ajs_anonymous_id": anonymous_id}
                user["anonymous_id"] = anonymous_id
            else:
                if anonymous_id is MISSING:
                    target["ids"] = {"ajs_user_id": user_id}
                else:
                    target["ids"] = {"ajs_anonymous_id": anonymous_id, "ajs_user_id": user_id}
                    user["anonymous_id"] = anonymous_id
                user["internal_id"] = user_id
                if not nests:
                    user["id"] = user_id
        if user is not None:
            target["user"] = user
        if path_type is not None and (kind is MISSING or kind is None):
            kind = path_type
        if kind is not MISSING:
            event["event_type"] = kind
            if kind.__class__ is not str or kind not in EVENT_TYPES:
                kind = "other"
        else:
            kind = "other"

        if nests and target:
            event["eventn_ctx"] = target
        if properties is not None:
            event.update(properties)
        if plain_context is not None:
            event.update(plain_context)
        if context is not None:
            event.update(context)
        if (
            "page" in event
            or "traits" in event
            or "userAgent" in event
            or "campaign" in event
            or "os" in event
            or "device" in event
            or "ip" in event
            or "locale" in event
        ):
            for key in DROPPED_ROOT_KEYS:
                event.pop(key, None)
        if nests and "location" in event:
            del event["location"]
        if unmapped is not None:
            event.update(unmapped)
        if "writeKey" in event:
            del event["writeKey"]

        if "timezone" in event:
            zone = event.pop("timezone")
            if zone.__class__ is str:
                offset = zones.get(zone)
                if offset is None:
                    offset = moment.offset_of(zone)
                if offset is not None:
                    if not nests or event.get("eventn_ctx") is target:
                        target["local_tz_offset"] = offset
                    else:
                        tracker_of(event, nests=True)["local_tz_offset"] = offset
        if "screen" in event:
            resolution = resolution_of(event["screen"])
            if resolution is not None:
                del event["screen"]
                tracker_of(event, nests=nests)["screen_resolution"] = resolution
        tracker = event.get("eventn_ctx")
        if tracker.__class__ is dict:
            holder = tracker
        else:
            tracker, holder = None, event

        try:
            if event_id.__class__ is not str or event_id == "":
                if event_id is None or event_id == "":
                    event_id = carried_event_id(event, tracker)
                if event_id.__class__ is not str:
                    event_id = json_text(event_id)
        except NestedTooDeeply:
            if sender.ip_policy != "keep":
                # Not shortened yet, and no letter may give it away.
                event.pop("source_ip", None)
            is_batch = batch is not None
            refuse(outcome, event, "nested_too_deeply", sender, moment, event_bytes_max, is_batch)
            break
        if tracker is None:
            event["eventn_ctx_event_id"] = event_id
        else:
            tracker["event_id"] = event_id

        source = event.get("source_ip")
        if source is None or source == "" or (is_client and source not in UNSPECIFIED):
            source = address
            if source:
                event["source_ip"] = source
        elif source.__class__ is not str:
            # Stored as it came, but nothing can be found by it.
            source = address
        event["src"] = "segment_api"
        if api_key is not None:
            event["api_key"] = api_key
        else:
            event.pop("api_key", None)
        if corrects:
            correct_timestamp(event, moment.now)
        if event.get("_timestamp") is None:
            event["_timestamp"] = timestamp

        place = known_places.get(source)
        if place is None:
            place = places.find(source, agent)
            known_places = places.newer.get(agent, NONE_KNOWN)
            takes_long = source not in known_places
        else:
            place_hits += 1
        user = None if tracker is None else tracker.get("user")
        if user.__class__ is not dict:
            user = event.get("user")
        if user.__class__ is dict:
            user["hashed_anonymous_id"] = place[0]

        user_agent = holder.get("user_agent") or event.get("user_agent")
        if user_agent and user_agent.__class__ is str and not holder.get("parsed_ua"):
            parsed = known_agents.get(user_agent)
            if parsed is None:
                parsed = find_agent(user_agent, batch)
                takes_long = takes_long or user_agent not in known_agents
            else:
                agent_hits += 1
            if parsed:
                holder["parsed_ua"] = parsed
        if place[1] and not holder.get("location"):
            holder["location"] = place[1]
        delete_cookie = has_policies and apply_privacy(event, user, sender, place[2])

        try:
            line = dumps(event) + b"\n"
        except encode_error:
            # Only depth is left to fail on: the event came out of a JSON parser.
            reason = "nested_too_deeply"
        else:
            if len(line) <= event_bytes_max:
                add_line(line)
                add_id(event_id)
                add_kind(kind)
                if delete_cookie:
                    outcome.delete_cookie = True
                if len(line) <= SMALL_LINE_BYTES_MAX and not takes_long:
                    continue
                break
            reason = "event_too_large"
        is_batch = batch is not None
        refuse(outcome, event, reason, sender, moment, event_bytes_max, is_batch)
        break
    hits = lookups.hits
    hits.user_agents += agent_hits
    hits.locations += place_hits
