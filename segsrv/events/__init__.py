"""From body bytes to stored lines: parse, map, enrich, serialise. Pure: no asyncio, no I/O."""

from segsrv.events.formats import COMPAT, FLAT, FORMATS, SEGMENT, TRACKER, Format
from segsrv.events.outcome import Outcome
from segsrv.events.payload import Payload, parse, parsing
from segsrv.events.pipeline import Pipeline
from segsrv.events.sender import Sender
from segsrv.events.steps import EVENT_TYPES

__all__ = [
    "COMPAT",
    "EVENT_TYPES",
    "FLAT",
    "FORMATS",
    "SEGMENT",
    "TRACKER",
    "Format",
    "Outcome",
    "Payload",
    "Pipeline",
    "Sender",
    "parse",
    "parsing",
]
