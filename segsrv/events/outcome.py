"""What became of a body: stored lines, and items set aside with the reason."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import orjson

from segsrv.errors import BadRequest
from segsrv.events.sender import Moment, Sender
from segsrv.events.shapes import line_of

SMALL_LINE_BYTES_MAX = 16 << 10
"""Dozens of these are made in a millisecond or two."""


class Outcome:
    """What became of a body: stored lines (each ends with a newline) and items set aside.

    `ids` and `kinds` have the stored event id and the Segment type of each line, unknown types as
    `other`; `types` counts them. `reasons` counts items set aside; `dead_letters` are lines too.
    """

    __slots__ = (
        "dead_letters",
        "delete_cookie",
        "ids",
        "kinds",
        "lines",
        "reasons",
        "received_ms",
    )

    def __init__(self, received_ms: int = 0) -> None:
        self.received_ms = received_ms
        self.lines: list[bytes] = []
        self.ids: list[str] = []
        self.kinds: list[str] = []
        self.dead_letters: list[bytes] = []
        self.reasons: dict[str, int] = {}
        self.delete_cookie = False

    @property
    def types(self) -> dict[str, int]:
        kinds = self.kinds
        return {kind: kinds.count(kind) for kind in set(kinds)}


def refuse(
    outcome: Outcome,
    item: Any,
    reason: str,
    sender: Sender,
    moment: Moment,
    event_bytes_max: int,
    is_batch: bool,  # noqa: FBT001
) -> None:
    """Set *item* of a batch aside.

    Raises:
        BadRequest: It came alone.

    """
    message = _explain(item, reason, event_bytes_max, sender.types)
    if not is_batch:
        raise BadRequest(message, code=reason)
    letter = {
        "reason": reason,
        "message": message,
        "received_at": moment.timestamp,
        "api_key": sender.api_key,
    }
    outcome.reasons[reason] = outcome.reasons.get(reason, 0) + 1
    outcome.dead_letters.append(_dead_letter(letter, item))


def _explain(item: Any, reason: str, event_bytes_max: int, types: Collection[str]) -> str:
    if reason == "type_not_allowed":
        return f"the write key may send only {', '.join(sorted(types))}"
    if reason == "event_too_large":
        size = len(orjson.dumps(item)) + 1
        return f"the event takes {size} bytes, the limit is {event_bytes_max}"
    if reason == "nested_too_deeply":
        return "the event is nested more than 250 levels deep"
    return "an item of a batch must be a JSON object"


def _dead_letter(letter: dict[str, Any], item: Any) -> bytes:
    try:
        return line_of(letter | {"item": item})
    except orjson.JSONEncodeError:
        pass
    try:
        letter["item_text"] = json.dumps(item, ensure_ascii=False, default=_thawed)
    except (RecursionError, ValueError):
        letter["item_text"] = None
    return line_of(letter)


def _thawed(part: Any) -> Any:
    """Return what a ready-made part stands for."""
    return orjson.loads(orjson.dumps(part))
