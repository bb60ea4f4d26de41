"""The event path as one pure step: a parsed body in, lines for the journal out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from segsrv.errors import BadRequest
from segsrv.events.finish import Moment, Sender, finish
from segsrv.events.formats import Format
from segsrv.events.payload import Payload
from segsrv.events.shapes import Event, Lookup, NestedTooDeeply, as_object, line_of
from segsrv.events.user_agents import long_ones_once

EVENT_TYPES = frozenset(("track", "identify", "page", "screen", "group", "alias"))


@dataclass(slots=True)
class Outcome:
    """What became of a body: stored lines (each ends with a newline) and items set aside.

    `ids` and `kinds` have the stored event id and the Segment type of each line, unknown types as
    `other`; `types` counts them. `reasons` counts items set aside; `dead_letters` are lines too.
    """

    received_ms: int = 0
    lines: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    types: dict[str, int] = field(default_factory=dict)
    dead_letters: list[bytes] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    delete_cookie: bool = False


class Pipeline:
    """Maps, enriches and serialises; holds only limits and the two look-ups.

    `parse_user_agent` and `locate` may be replaced at any time, as they are when a database on disk
    is; each run reads them once.
    """

    def __init__(self, *, event_bytes_max: int, parse_user_agent: Lookup, locate: Lookup) -> None:
        self.event_bytes_max = event_bytes_max
        self.parse_user_agent = parse_user_agent
        self.locate = locate

    def run(
        self, payload: Payload, sender: Sender, output: Format, *, now: datetime | None = None
    ) -> Outcome:
        """Return the stored lines of *payload*, in its order; its items are consumed.

        A bad item of a batch is set aside and costs its neighbours nothing.

        Raises:
            BadRequest: The body was a single event, and that event can't be stored.

        """
        outcome = Outcome()
        for _ in self.steps(payload, sender, output, outcome, now=now):
            pass
        return outcome

    def steps(
        self,
        payload: Payload,
        sender: Sender,
        output: Format,
        outcome: Outcome,
        *,
        now: datetime | None = None,
    ) -> Iterator[None]:
        """Do the same into *outcome*, an item a step, so that a long batch can be interrupted.

        An item is let go when its line is made: together they take many times the lines' memory.
        """
        moment = Moment(datetime.now(UTC) if now is None else now)
        outcome.received_ms = int(moment.now.timestamp() * 1_000)
        parse_user_agent, locate = self.parse_user_agent, self.locate
        shared = None
        if payload.is_batch:
            parse_user_agent = long_ones_once(parse_user_agent)
            shared = _Shared(payload)
        items = payload.items
        items.reverse()
        while items:
            item = items.pop()
            if item.__class__ is not dict:
                self._refuse(outcome, payload, sender, moment, item, "not_an_object")
                yield
                continue
            if shared is not None:
                shared.give(item)
            if sender.gives_user_agent and sender.user_agent:
                _give_user_agent(item, sender.user_agent)
            kind = _kind(item, sender)
            event_id = item.pop("messageId", None)
            event = output.map_event(item)
            # Never stored, wherever in the event it came from.
            event.pop("writeKey", None)
            try:
                stored_id, delete_cookie = finish(
                    event,
                    sender,
                    event_id=event_id,
                    output=output,
                    moment=moment,
                    parse_user_agent=parse_user_agent,
                    locate=locate,
                )
            except NestedTooDeeply:
                if sender.ip_policy != "keep":
                    # Not shortened yet, and no letter may give it away.
                    event.pop("source_ip", None)
                self._refuse(outcome, payload, sender, moment, event, "nested_too_deeply")
            else:
                if (line := self._line(outcome, payload, sender, moment, event)) is not None:
                    outcome.lines.append(line)
                    outcome.ids.append(stored_id)
                    outcome.kinds.append(kind)
                    outcome.types[kind] = outcome.types.get(kind, 0) + 1
                    outcome.delete_cookie |= delete_cookie
            yield

    def _line(
        self, outcome: Outcome, payload: Payload, sender: Sender, moment: Moment, event: Event
    ) -> bytes | None:
        """Return the line to store, None if the event was refused."""
        try:
            line = line_of(event)
        except orjson.JSONEncodeError:
            # Only depth is left to fail on: the event came out of a JSON parser.
            self._refuse(outcome, payload, sender, moment, event, "nested_too_deeply")
            return None
        if len(line) > self.event_bytes_max:
            self._refuse(outcome, payload, sender, moment, event, "event_too_large")
            return None
        return line

    def _refuse(
        self,
        outcome: Outcome,
        payload: Payload,
        sender: Sender,
        moment: Moment,
        item: Any,
        reason: str,
    ) -> None:
        message = self._explain(item, reason)
        if not payload.is_batch:
            raise BadRequest(message, code=reason)
        letter = {
            "reason": reason,
            "message": message,
            "received_at": moment.timestamp,
            "api_key": sender.api_key,
        }
        outcome.reasons[reason] = outcome.reasons.get(reason, 0) + 1
        outcome.dead_letters.append(_dead_letter(letter, item))

    def _explain(self, item: Any, reason: str) -> str:
        if reason == "event_too_large":
            size = len(orjson.dumps(item)) + 1
            return f"the event takes {size} bytes, the limit is {self.event_bytes_max}"
        if reason == "nested_too_deeply":
            return "the event is nested more than 250 levels deep"
        return "an item of a batch must be a JSON object"


class _Shared:
    """What a batch says for all of its events.

    The events hold the same objects. What mapping and finishing write into or take from is copied
    for each: the context itself, and some of what can be in it.
    """

    def __init__(self, payload: Payload) -> None:
        self._context = payload.context
        self._integrations = payload.integrations
        self._sent_at = payload.sent_at
        self._copied = [name for name in _CHANGED_PARTS if _holds_object(payload.context, name)]

    def give(self, item: Event) -> None:
        """Give *item* what it does not say itself."""
        shared = self._context
        if shared is not None:
            own = as_object(item.get("context"), "context", item)
            context = item["context"] = shared.copy() if own is None else shared | own
            for name in self._copied:
                if context[name] is shared[name]:
                    context[name] = _copied(shared[name])
        if self._integrations is not None:
            own = item.get("integrations")
            if own.__class__ is dict or not own:
                item["integrations"] = self._integrations | (own or {})
        if self._sent_at is not None and item.get("sentAt") is None:
            item["sentAt"] = self._sent_at


_CHANGED_PARTS = ("page", "campaign", "referrer", "traits", "user", "eventn_ctx")


def _holds_object(context: Event | None, name: str) -> bool:
    return context is not None and context.get(name).__class__ is dict


def _copied(part: Event) -> Event:
    """Copy *part* and the user in it, which an `eventn_ctx` has."""
    part = part.copy()
    if part.get("user").__class__ is dict:
        part["user"] = part["user"].copy()
    return part


def _kind(item: Event, sender: Sender) -> str:
    """Return the item's type as metrics count it; the path's, if it has none of its own."""
    kind = item.get("type")
    if kind is None and sender.event_type is not None:
        kind = item["type"] = sender.event_type
    return kind if kind.__class__ is str and kind in EVENT_TYPES else "other"


def _give_user_agent(item: Event, user_agent: str) -> None:
    """Put the request's *user_agent* where *item* names none."""
    context = as_object(item.get("context"), "context", item)
    if context is None:
        context = item["context"] = {}
    if not context.get("userAgent") and not context.get("user_agent"):
        # A header's bytes that are no UTF-8 arrive as surrogates, which JSON can't hold.
        raw = user_agent.encode("utf-8", "surrogateescape")
        context["userAgent"] = raw.decode("utf-8", "replace")


def _dead_letter(letter: dict[str, Any], item: Any) -> bytes:
    try:
        return line_of(letter | {"item": item})
    except orjson.JSONEncodeError:
        pass
    try:
        letter["item_text"] = json.dumps(item, ensure_ascii=False)
    except (RecursionError, ValueError):
        letter["item_text"] = None
    return line_of(letter)
