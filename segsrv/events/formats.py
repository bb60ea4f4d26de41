"""The output formats: what an event is mapped to, and where that keeps the tracker's own fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segsrv.events.reference.compat import map_compat
from segsrv.events.reference.flat import map_flat
from segsrv.events.shapes import Event


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Format:
    """One way of storing events; `name` is what metrics and documents call it.

    `map_event` consumes the event that it is given. `nests_tracker_fields` says whether fields that
    are not the client's own, such as the time zone's offset, go into `eventn_ctx` or to the root.
    `is_of_segment` says that the rules for Segment events make it, which the fused loop knows;
    `keeps_shape`, that a Segment event stays as it is, see `segment`.
    """

    name: str
    map_event: Callable[[Event], Event]
    nests_tracker_fields: bool
    is_of_segment: bool
    keeps_shape: bool = False


FLAT = Format(name="flat", map_event=map_flat, nests_tracker_fields=False, is_of_segment=True)
COMPAT = Format(name="compat", map_event=map_compat, nests_tracker_fields=True, is_of_segment=True)
TRACKER = Format(
    name="tracker",
    map_event=lambda event: event,
    nests_tracker_fields=False,
    is_of_segment=False,
)
"""For events that are stored events already, as Jitsu's older tracker makes them: none is moved."""
SEGMENT = Format(
    name="segment",
    map_event=lambda event: event,
    nests_tracker_fields=False,
    is_of_segment=False,
    keeps_shape=True,
)
FORMATS = (FLAT, COMPAT, SEGMENT, TRACKER)
