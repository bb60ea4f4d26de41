"""Says of a body what would be stored of it, field by field, and why; changes nothing.

What is stored is what the event path itself makes. The rest is found by comparing that with what
was sent: where each value came from, which of them segsrv adds and by which rule, and what is left
out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import orjson

from segsrv.errors import BadRequest
from segsrv.events.formats import Format
from segsrv.events.payload import Payload
from segsrv.events.pipeline import Pipeline
from segsrv.events.sender import Sender
from segsrv.events.shapes import Event

Path = tuple[str, ...]
TEXT_CHARS_MAX = 200
STEPS_MAX = 2_000

_RECEIVED = "when the server received it"
_ADDRESS = "the sender's address, or the one that a server names"
_KEY = "the key, as stored_api_key says"
_AGENT = "what the user agent says"
_PLACE = "where the GeoIP databases have the address"
_ID = "the event's id: its messageId, or a new one"
_ADDED: Mapping[str, tuple[tuple[Path, str], ...]] = {
    "flat": (
        (("_timestamp",), _RECEIVED),
        (("source_ip",), _ADDRESS),
        (("api_key",), _KEY),
        (("src",), "that it came by this interface"),
        (("eventn_ctx_event_id",), _ID),
        (("parsed_ua",), _AGENT),
        (("location",), _PLACE),
        (("local_tz_offset",), "minutes east of UTC in context.timezone"),
        (("screen_resolution",), "width and height of context.screen"),
        (("user", "hashed_anonymous_id"), "a hash of address and user agent"),
        (("timestamp",), "corrected by the sender's clock"),
        (("originalTimestamp",), "the time that was sent"),
        (("event_type",), "the type that the path names"),
    ),
    "segment": (
        (("receivedAt",), _RECEIVED),
        (("context", "ip"), _ADDRESS),
        (("writeKey",), _KEY),
        (("messageId",), _ID),
        (("context", "parsedUserAgent"), _AGENT),
        (("context", "location"), _PLACE),
        (("timestamp",), "receivedAt - (sentAt - originalTimestamp), as far as these are known"),
        (("originalTimestamp",), "the time that was sent"),
        (("type",), "the type that the path names"),
    ),
}


class Step(NamedTuple):
    """One thing that became of an event.

    `how` is `moved`, `added`, `changed` or `left out`; paths are keys joined by dots, and empty
    where there is none.
    """

    how: str
    source: str
    target: str
    value: str
    why: str


class Explained(NamedTuple):
    """What becomes of one item in one format: the stored event, or why there is none."""

    output: str
    event: Event | None
    steps: list[Step]
    code: str = ""
    message: str = ""


def explain(
    payload: Payload, index: int, pipeline: Pipeline, sender: Sender, output: Format
) -> Explained:
    """Say what becomes of the item at *index* of *payload*, which stays as it is."""
    try:
        # What a batch shares is not changed, and an item is its own.
        text = orjson.dumps(payload.items[index])
    except orjson.JSONEncodeError:
        message = "the event is nested more than 250 levels deep"
        return Explained(output.name, None, [], "nested_too_deeply", message)
    sent, one = (replace(payload, items=[orjson.loads(text)]) for _ in range(2))
    try:
        outcome = pipeline.run(one, sender, output)
    except BadRequest as error:
        return Explained(output.name, None, [], error.code, str(error))
    if not outcome.lines:
        letter = orjson.loads(outcome.dead_letters[0])
        return Explained(output.name, None, [], letter["reason"], letter["message"])
    event = orjson.loads(outcome.lines[0])
    steps = _steps(_whole(sent), event, output)
    return Explained(output.name, event, list(islice(steps, STEPS_MAX)))


def _whole(payload: Payload) -> Event:
    """Return the item as it was sent, with what its batch gives it."""
    item: Event = dict(payload.items[0])
    if payload.context is not None:
        own = item.get("context")
        item["context"] = payload.context | (own if own.__class__ is dict else {})
    if payload.integrations is not None:
        own = item.get("integrations")
        item["integrations"] = payload.integrations | (own if own.__class__ is dict else {})
    if payload.sent_at is not None and item.get("sentAt") is None:
        item["sentAt"] = payload.sent_at
    return item


def _steps(sent: Event, stored: Event, output: Format) -> Iterator[Step]:
    before, after = dict(_leaves(sent)), dict(_leaves(stored))
    by_value: dict[tuple[str, str], Path] = {}
    for path, text in before.items():
        by_value.setdefault((text, path[-1]), path)
        by_value.setdefault((text, ""), path)
    used = set()
    for path, text in after.items():
        if before.get(path) == text:
            used.add(path)
            continue
        why = _why(path, output)
        # Most likely the sent value of the same name, or else the first that is equal.
        source = by_value.get((text, path[-1])) or by_value.get((text, ""))
        if source is not None and (why is None or _is_moved(source, path)):
            used.add(source)
            yield Step("moved", _dotted(source), _dotted(path), _cut(text), "")
        elif path in before:
            used.add(path)
            yield Step("changed", _dotted(path), _dotted(path), _cut(text), why or "")
        else:
            yield Step("added", "", _dotted(path), _cut(text), why or "made of other fields")
    for path, text in before.items():
        if path not in used:
            yield Step("left out", _dotted(path), "", _cut(text), "")


def _why(path: Path, output: Format) -> str | None:
    known = _ADDED["segment" if output.keeps_shape else "flat"]
    bare = path[1:] if output.nests_tracker_fields and path[0] == "eventn_ctx" else path
    if output.nests_tracker_fields and bare == ("event_id",):
        return _ID
    return next((why for start, why in known if bare[: len(start)] == start), None)


def _is_moved(source: Path, path: Path) -> bool:
    """Say whether a value that a rule adds is one that was sent for it."""
    names = {
        "messageId": {"eventn_ctx_event_id", "event_id"},
        "type": {"event_type"},
        "ip": {"source_ip"},
    }
    if path[-1] in names.get(source[-1], ()):
        return True
    if "parsed_ua" in path:
        return source[:2] in (("context", "os"), ("context", "device"))
    return "location" in source and "location" in path


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if value.__class__ is dict and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    elif path:
        yield path, json.dumps(value, ensure_ascii=False)


def _dotted(path: Path) -> str:
    return ".".join(path)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARS_MAX else text[: TEXT_CHARS_MAX - 1] + "…"
