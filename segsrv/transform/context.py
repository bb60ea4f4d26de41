"""What a transformation is told beside the event, and what it may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EventContext:
    """What segsrv itself knows of an event; none of it can be forged by a client.

    `format` is `flat`, `compat`, `segment` or `tracker`, `type` such as `track`, `received_ms` when
    it was received, in ms since 1970, and `sink` the name of the sink that it is about to go to.
    `key_id`, `format`, `type` and `event_id` are empty where nothing is known.
    """

    key_id: str = ""
    format: str = "flat"
    type: str = ""
    received_ms: int = 0
    event_id: str = ""
    sink: str = ""


Event = dict[str, Any]
Function = Callable[[Event, EventContext], Any]
"""Returns the event to be stored, a list of several, or None for none."""
