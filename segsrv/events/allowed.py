"""Sets items aside whose type their key may not send."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from segsrv.events.outcome import Outcome, refuse
from segsrv.events.sender import Moment, Sender
from segsrv.events.steps import kind_of

SLICE_ITEMS = 32
REASON = "type_not_allowed"


def set_aside(
    items: list[Any],
    sender: Sender,
    moment: Moment,
    event_bytes_max: int,
    outcome: Outcome,
    *,
    is_batch: bool,
) -> Iterator[None]:
    """Leave those in *items* that *sender* may send, and add the others to *outcome*.

    Some items a step, so that a long batch can be interrupted. What is no object is left: that it
    is none is said of it later.

    Raises:
        BadRequest: The item came alone.

    """
    kept = []
    found = iter(items)
    while some := list(islice(found, SLICE_ITEMS)):
        for item in some:
            if item.__class__ is not dict or kind_of(item, sender) in sender.types:
                kept.append(item)
            else:
                refuse(outcome, item, REASON, sender, moment, event_bytes_max, is_batch)
        yield
    items[:] = kept
