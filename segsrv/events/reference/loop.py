"""The way from item to line, step by step, for any format."""

from __future__ import annotations

from typing import Any

import orjson

from segsrv.events.batches import Batch
from segsrv.events.formats import Format
from segsrv.events.lookups import Lookups
from segsrv.events.outcome import SMALL_LINE_BYTES_MAX, Outcome, refuse
from segsrv.events.reference.finish import finish
from segsrv.events.sender import Moment, Sender
from segsrv.events.shapes import Event, NestedTooDeeply, line_of
from segsrv.events.steps import give_user_agent, kind_of
from segsrv.events.user_agents import long_ones_once


def store(
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

    One that is large or can't be stored is the last: it takes long enough for others to go on.
    """
    parse_user_agent = lookups.user_agents.parse
    if batch is not None:
        batch.parse_long = batch.parse_long or long_ones_once(parse_user_agent)
        parse_user_agent = batch.parse_long

    def refuse_it(item: Any, reason: str) -> None:
        is_batch = batch is not None
        refuse(outcome, item, reason, sender, moment, event_bytes_max, is_batch)

    for _ in range(count):
        item = items.pop()
        if item.__class__ is not dict:
            refuse_it(item, "not_an_object")
            return
        event, event_id, kind = mapped(item, output, sender, batch)
        try:
            stored_id, delete_cookie = finish(
                event,
                sender,
                event_id=event_id,
                nests_tracker_fields=output.nests_tracker_fields,
                moment=moment,
                parse_user_agent=parse_user_agent,
                locate=lookups.places.locate,
            )
            line = line_of(event)
        except NestedTooDeeply:
            if sender.ip_policy != "keep":
                # Not shortened yet, and no letter may give it away.
                event.pop("source_ip", None)
            refuse_it(event, "nested_too_deeply")
            return
        except orjson.JSONEncodeError:
            # Only depth is left to fail on: the event came out of a JSON parser.
            refuse_it(event, "nested_too_deeply")
            return
        if len(line) > event_bytes_max:
            refuse_it(event, "event_too_large")
            return
        outcome.lines.append(line)
        outcome.ids.append(stored_id)
        outcome.kinds.append(kind)
        outcome.delete_cookie |= delete_cookie
        if len(line) > SMALL_LINE_BYTES_MAX:
            return


def mapped(
    item: Event, output: Format, sender: Sender, batch: Batch | None
) -> tuple[Event, Any, str]:
    """Return *item*, which is consumed, as *output* maps it, its `messageId` and its type."""
    if batch is not None:
        batch.give(item)
    if sender.gives_user_agent and sender.user_agent:
        give_user_agent(item, sender.user_agent)
    kind = _kind(item, sender)
    event_id = item.pop("messageId", None)
    event = output.map_event(item)
    # Never stored, wherever in the event it came from.
    event.pop("writeKey", None)
    return event, event_id, kind


def _kind(item: Event, sender: Sender) -> str:
    """Return the item's type as metrics count it; the path's, if it has none of its own."""
    if item.get("type") is None and sender.event_type is not None:
        item["type"] = sender.event_type
    return kind_of(item, sender)
