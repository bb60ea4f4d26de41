"""From body bytes to stored lines: parse, map, enrich, serialise. Pure: no asyncio, no I/O."""

from segsrv.events.finish import Sender
from segsrv.events.formats import COMPAT, FLAT, FORMATS, TRACKER, Format
from segsrv.events.payload import Payload, parse, parsing
from segsrv.events.pipeline import EVENT_TYPES, Outcome, Pipeline

__all__ = [
    "COMPAT",
    "EVENT_TYPES",
    "FLAT",
    "FORMATS",
    "TRACKER",
    "Format",
    "Outcome",
    "Payload",
    "Pipeline",
    "Sender",
    "parse",
    "parsing",
]
