"""The event path as one pure step: a parsed body in, lines for the journal out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from segsrv.errors import BadRequest
from segsrv.events.compat import map_compat
from segsrv.events.finish import Lookup, Moment, Sender, finish
from segsrv.events.flat import map_flat
from segsrv.events.payload import Payload
from segsrv.events.shapes import Event, NestedTooDeeply, as_object

Format = Literal["flat", "compat"]
FORMATS: tuple[Format, ...] = ("flat", "compat")
EVENT_TYPES = frozenset(("track", "identify", "page", "screen", "group", "alias"))

_MAPPERS: dict[Format, Callable[[Event], Event]] = {"flat": map_flat, "compat": map_compat}


@dataclass(slots=True)
class Outcome:
    """What became of a body: stored lines (each ends with a newline) and items set aside.

    `types` counts stored events by Segment type, unknown ones as `other`; `reasons` counts items
    set aside; `dead_letters` are lines too.
    """

    lines: list[bytes] = field(default_factory=list)
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
        """Return the stored lines of *payload*, in its order.

        A bad item of a batch is set aside and costs its neighbours nothing.

        Raises:
            BadRequest: The body was a single event, and that event can't be stored.

        """
        moment = Moment(datetime.now(UTC) if now is None else now)
        timestamp = moment.timestamp
        outcome = Outcome()
        lines, types = outcome.lines, outcome.types
        map_event, is_compat = _MAPPERS[output], output == "compat"
        parse_user_agent, locate = self.parse_user_agent, self.locate
        for item in payload.items:
            if item.__class__ is not dict:
                self._refuse(outcome, payload, sender, timestamp, item, "not_an_object")
                continue
            kind = _prepare(item, payload, sender)
            event = map_event(item)
            # Never stored, wherever in the event it came from.
            event.pop("writeKey", None)
            try:
                delete_cookie = finish(
                    event,
                    sender,
                    is_compat=is_compat,
                    moment=moment,
                    parse_user_agent=parse_user_agent,
                    locate=locate,
                )
            except NestedTooDeeply:
                if sender.ip_policy != "keep":
                    # Not shortened yet, and no letter may give it away.
                    event.pop("source_ip", None)
                self._refuse(outcome, payload, sender, timestamp, event, "nested_too_deeply")
                continue
            try:
                line = orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)
            except orjson.JSONEncodeError:
                # Only depth is left to fail on: the event came out of a JSON parser.
                self._refuse(outcome, payload, sender, timestamp, event, "nested_too_deeply")
                continue
            if len(line) > self.event_bytes_max:
                self._refuse(outcome, payload, sender, timestamp, event, "event_too_large")
                continue
            lines.append(line)
            types[kind] = types.get(kind, 0) + 1
            if delete_cookie:
                outcome.delete_cookie = True
        return outcome

    def _refuse(
        self,
        outcome: Outcome,
        payload: Payload,
        sender: Sender,
        timestamp: str,
        item: Any,
        reason: str,
    ) -> None:
        message = self._explain(item, reason)
        if not payload.is_batch:
            raise BadRequest(message, code=reason)
        letter = {
            "reason": reason,
            "message": message,
            "received_at": timestamp,
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


def _prepare(item: Event, payload: Payload, sender: Sender) -> str:
    """Give *item* what the batch and the path say for it; return its type as metrics count it."""
    if payload.is_batch:
        if payload.context_json is not None:
            shared: Event = orjson.loads(payload.context_json)
            own = as_object(item.get("context"), "context", item)
            item["context"] = shared if own is None else shared | own
        if payload.integrations is not None:
            own = item.get("integrations")
            if own.__class__ is dict or not own:
                item["integrations"] = payload.integrations | (own or {})
        if payload.sent_at is not None and item.get("sentAt") is None:
            item["sentAt"] = payload.sent_at
    if sender.gives_user_agent and sender.user_agent:
        _give_user_agent(item, sender.user_agent)
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
        return orjson.dumps(letter | {"item": item}, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        pass
    try:
        letter["item_text"] = json.dumps(item)
    except (RecursionError, ValueError):
        letter["item_text"] = None
    return orjson.dumps(letter, option=orjson.OPT_APPEND_NEWLINE)
