"""What functions make of one event: none, one or several, each with an id of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import orjson

from segsrv.errors import SegsrvError
from segsrv.transform.context import Event, EventContext, Function
from segsrv.transform.identity import id_of, type_of, with_id

EVENTS_MADE_MAX = 1_000
"""So many may one event become."""


class BadResult(SegsrvError):
    """A function returned what can't be stored."""


class Made(NamedTuple):
    """An event that came out: its id, its type, and its line with the newline."""

    event_id: str
    type: str
    line: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeLimits:
    """How large one event may come out, and all that is made of one together."""

    event_bytes_max: int
    total_bytes_max: int


def apply_to_line(
    functions: Sequence[Function], line: bytes, context: EventContext, limits: MadeLimits
) -> list[Made]:
    """Return what *functions*, one after the other, make of the event in *line*.

    Raises:
        BadResult: One returned what is no event, too large, or too many.
        BaseException: Whatever a function raises.

    """
    made = []
    total = 0
    for event, known in apply_to(functions, orjson.loads(line), context):
        try:
            stored = orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError as error:
            raise BadResult(f"returned what JSON can't hold: {error}") from error
        total += len(stored)
        if len(stored) - 1 > limits.event_bytes_max:
            raise BadResult(
                f"returned an event of {len(stored) - 1} bytes, "
                f"the limit is event_bytes_max={limits.event_bytes_max}"
            )
        if total > limits.total_bytes_max:
            raise BadResult(f"returned more than {limits.total_bytes_max} bytes for one event")
        made.append(Made(known.event_id, known.type, stored))
    return made


def apply_to(
    functions: Sequence[Function], event: Event, context: EventContext
) -> list[tuple[Event, EventContext]]:
    """Return the events that *functions* make of *event*, with what is known of each by then.

    Raises:
        BadResult: One returned what is no event, or too many.
        BaseException: Whatever a function raises.

    """
    events = [(event, context)]
    for number, function in enumerate(functions):
        made: list[tuple[Event, EventContext]] = []
        for each, known in events:
            made += _results(function(each, known), known, is_last=number + 1 == len(functions))
            if len(made) > EVENTS_MADE_MAX:
                raise BadResult(f"returned more than {EVENTS_MADE_MAX} events for one")
        events = made
    return events


def _results(
    result: object, context: EventContext, *, is_last: bool
) -> list[tuple[Event, EventContext]]:
    if result is None:
        return []
    if isinstance(result, dict):
        return [(result, _known(result, context))]
    if not isinstance(result, list):
        raise BadResult(f"returned {type(result).__name__}, expected a dict, a list or None")
    if len(result) > EVENTS_MADE_MAX:
        raise BadResult(f"returned more than {EVENTS_MADE_MAX} events for one")
    found = []
    for number, item in enumerate(result):
        if not isinstance(item, dict):
            raise BadResult(f"returned a list with {type(item).__name__}, expected only dicts")
        event: Event = item
        own_id = id_of(event, context.format)
        if context.event_id and own_id in ("", context.event_id):
            event_id = f"{context.event_id}-{number}" if number else context.event_id
            if event_id != own_id:
                event = with_id(event, context.format, event_id)
        if not is_last and len(result) > 1:
            # What several share must not be changed for all by what comes next.
            event = _copied(event)
        found.append((event, _known(event, context)))
    return found


def _known(event: Event, context: EventContext) -> EventContext:
    event_id = id_of(event, context.format) or context.event_id
    kind = type_of(event, context.format) or context.type
    if event_id == context.event_id and kind == context.type:
        return context
    return replace(context, event_id=event_id, type=kind)


def _copied(event: Event) -> Event:
    try:
        copy: Event = orjson.loads(orjson.dumps(event))
    except TypeError as error:
        raise BadResult(f"returned what JSON can't hold: {error}") from error
    return copy
