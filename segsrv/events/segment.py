"""Stores Segment events in Segment's own shape: nothing moves, and what is found out is added.

`docs/events.md` has the table of fields. Whatever a customer's event holds in `properties` and
`traits` stays there, so that it can't stand for a field of the event itself.
"""

from __future__ import annotations

import uuid
from typing import Any

import orjson

from segsrv.events.batches import Batch
from segsrv.events.clock import parse_stamp, text_of
from segsrv.events.formats import Format
from segsrv.events.lookups import NONE_KNOWN, Lookups
from segsrv.events.outcome import SMALL_LINE_BYTES_MAX, Outcome, refuse
from segsrv.events.privacy import is_strict, shorten_addresses
from segsrv.events.sender import Moment, Sender
from segsrv.events.shapes import Event, NestedTooDeeply, as_object, json_text
from segsrv.events.steps import EVENT_TYPES, UNSPECIFIED, give_user_agent

ROOT_ADDRESSES = ("ip", "request_ip")
"""Where some SDKs have the sender's address as well; nothing reads it there."""
PARSED_AGENT = "parsedUserAgent"
"""Of the context: what the user agent says, under the names that `parsed_ua` has elsewhere."""


def store(
    items: list[Any],
    count: int,
    output: Format,  # noqa: ARG001 - All stores are called alike.
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
    for _ in range(count):
        event = items.pop()
        reason = "not_an_object"
        if event.__class__ is dict:
            try:
                event_id, kind, delete_cookie, is_new = shape(event, sender, moment, batch, lookups)
                line = orjson.dumps(event) + b"\n"
            except (NestedTooDeeply, orjson.JSONEncodeError):
                # Only depth is left to fail on: the event came out of a JSON parser.
                reason = "nested_too_deeply"
                if sender.ip_policy != "keep":
                    # It may not be shortened yet, and no letter may give it away.
                    _forget_address(event)
            else:
                reason = "event_too_large"
                if len(line) <= event_bytes_max:
                    outcome.lines.append(line)
                    outcome.ids.append(event_id)
                    outcome.kinds.append(kind)
                    outcome.delete_cookie |= delete_cookie
                    if len(line) <= SMALL_LINE_BYTES_MAX and not is_new:
                        continue
                    return
        is_batch = batch is not None
        refuse(outcome, event, reason, sender, moment, event_bytes_max, is_batch)
        return


def shape(
    event: Event, sender: Sender, moment: Moment, batch: Batch | None, lookups: Lookups
) -> tuple[str, str, bool, bool]:
    """Complete *event* in place.

    Returns its id, its type, whether its cookie is to be deleted, and whether something in it had
    to be looked up that no cache keeps.

    Raises:
        NestedTooDeeply: The id is an object of too many levels.

    """
    if batch is not None:
        batch.give(event)
    if sender.gives_user_agent and sender.user_agent:
        give_user_agent(event, sender.user_agent)
    if sender.api_key is not None:
        event["writeKey"] = sender.api_key
    else:
        event.pop("writeKey", None)
    if sender.event_type is not None and event.get("type") is None:
        event["type"] = sender.event_type
    kind = event.get("type")
    if kind.__class__ is not str or kind not in EVENT_TYPES:
        kind = "other"
    context = as_object(event.get("context"), "context", event)
    if context is None:
        context = event["context"] = {}

    source = _source(context, sender)
    event_id = event["messageId"] = _event_id(event)
    _stamp(event, moment)

    places, known_agents = lookups.places, lookups.user_agents.cache.newer
    hashed, location, country = places.find(source, sender.user_agent)
    is_new = source not in places.newer.get(sender.user_agent, NONE_KNOWN)
    if location and not context.get("location"):
        context["location"] = location
    agent = context.get("userAgent") or context.get("user_agent")
    if agent and agent.__class__ is str and not context.get(PARSED_AGENT):
        parsed = known_agents.get(agent)
        if parsed is None:
            parsed = lookups.user_agents.find(agent, batch)
            is_new = is_new or agent not in known_agents
        else:
            lookups.hits.user_agents += 1
        if parsed:
            context[PARSED_AGENT] = parsed
    if sender.ip_policy != "keep" and is_strict(sender.ip_policy, country):
        _shorten_address(event, context)
    delete_cookie = sender.cookie_policy != "keep" and is_strict(sender.cookie_policy, country)
    if delete_cookie:
        # Phones repeat the id among the traits.
        for holder in (event, event.get("traits"), context.get("traits")):
            if holder.__class__ is dict and "anonymousId" in holder:
                holder["anonymousId"] = hashed
    return event_id, kind, delete_cookie, is_new


def _event_id(event: Event) -> str:
    event_id = event.get("messageId")
    if event_id is None or event_id == "":
        return str(uuid.uuid4())
    return event_id if event_id.__class__ is str else json_text(event_id)


def _source(context: Event, sender: Sender) -> str:
    """Return the address to look up, and store it where *context* has none of its own."""
    source = context.get("ip")
    if source is None or source == "" or (sender.is_client and source not in UNSPECIFIED):
        if sender.address:
            context["ip"] = sender.address
        return sender.address
    # What is no text is stored as it came, but nothing can be found by it.
    return source if source.__class__ is str else sender.address


def _stamp(event: Event, moment: Moment) -> None:
    """Give *event* the four times of Segment's common fields, as far as they are known.

    `timestamp = receivedAt - (sentAt - originalTimestamp)` (Segment, "Spec: Common Fields");
    without a `sentAt` that can be read, it is what was sent.
    """
    event["receivedAt"] = moment.timestamp
    original = event.get("originalTimestamp")
    if original is None:
        original = event.get("timestamp")
    if original is None:
        event["timestamp"] = moment.timestamp
        return
    event["originalTimestamp"] = event["timestamp"] = original
    happened_at, sent_at = parse_stamp(original), parse_stamp(event.get("sentAt"))
    if happened_at is not None and sent_at is not None:
        try:
            event["timestamp"] = text_of(moment.now - (sent_at - happened_at))
        except OverflowError:
            return


def _shorten_address(event: Event, context: Event) -> None:
    for name in ROOT_ADDRESSES:
        event.pop(name, None)
    stored = context.get("ip")
    # It can't be told what anything but a text would give away.
    shortened = shorten_addresses(stored) if stored.__class__ is str else ""
    if shortened:
        context["ip"] = shortened
    else:
        context.pop("ip", None)


def _forget_address(event: Event) -> None:
    for name in ROOT_ADDRESSES:
        event.pop(name, None)
    context = event.get("context")
    if context.__class__ is dict:
        context.pop("ip", None)
