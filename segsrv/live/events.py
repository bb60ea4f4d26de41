"""Follows the events of one journal, from outside of the process that writes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from segsrv.journal.facts import Facts, each
from segsrv.journal.reader import Reader, Stored
from segsrv.journal.segments import Header, read_header

READ_BYTES = 1 << 20
READS_MAX = 64
"""In one turn, which is a segment of the usual size; what is more is passed over."""


class Seen(NamedTuple):
    """An event that was stored: where, what is known of it, and its line."""

    journal: str
    facts: Facts
    line: bytes


class Followed(NamedTuple):
    """The newest events of a turn, in order, and how many came before these since the last one."""

    events: list[Seen]
    passed_over: int


class JournalFollower:
    """Reads what was stored since it was last asked; at first, what the newest segment holds.

    Nothing is locked, kept open or changed. Segments may be deleted meanwhile, and the journal may
    be another one by the next turn. An event whose commit is about to fail may be seen, too.
    """

    def __init__(self, directory: Path) -> None:
        self._name = directory.name
        self._reader = Reader(directory, keeps_damage=False)
        self._position = -1
        self._header: Header | None = None

    def read(self, events_max: int) -> Followed:
        """Return at most *events_max* events.

        Raises:
            OSError: The disk refused to read.

        """
        newest = self._reader.view().newest
        if newest is None:
            self._position = -1
            return Followed([], 0)
        header = read_header(newest)
        if self._position < 0 or self._is_anew(header):
            self._position = newest.base
        self._header = header
        frames: deque[Stored] = deque(maxlen=events_max)
        count = 0
        for _ in range(READS_MAX):
            chunk = self._reader.read(self._position, bytes_max=READ_BYTES)
            if chunk.end <= self._position:
                break
            self._position = chunk.end
            count += chunk.events
            frames.extend(chunk.frames)
        else:
            self._position = max(self._position, newest.base)
        found = self._newest(frames, events_max)
        return Followed(found, count - len(found))

    def _is_anew(self, header: Header | None) -> bool:
        """Say whether *header* is none of the journal that was read before."""
        if header is None or self._header is None:
            return header != self._header
        return header.journal_id != self._header.journal_id or header.base < self._header.base

    def _newest(self, frames: deque[Stored], events_max: int) -> list[Seen]:
        found: deque[Seen] = deque(maxlen=events_max)
        for frame in reversed(frames):
            events = list(_events(self._name, frame))
            room = events_max - len(found)
            found.extendleft(reversed(events[-room:]))
            if len(found) >= events_max:
                break
        return list(found)


def _events(journal: str, frame: Stored) -> Iterator[Seen]:
    start = 0
    for facts in each(frame.runs):
        end = start + facts.length
        yield Seen(journal, facts, bytes(frame.payload[start:end]))
        start = end


def shown(seen: Seen) -> dict[str, Any]:
    """Return an event for people and scripts; its key is named by its id, never by its secret."""
    facts = seen.facts
    try:
        event = orjson.loads(seen.line)
    except orjson.JSONDecodeError:
        event = {"line": seen.line.decode("utf-8", "replace")}
    for name in ("api_key", "writeKey"):
        if isinstance(event, dict) and name in event:
            event[name] = f"[key {facts.key_id}]"
    return {
        "kind": "event",
        "at_ms": facts.received_ms,
        "worker": seen.journal,
        "key": facts.key_id,
        "format": facts.format,
        "type": facts.type,
        "id": facts.event_id,
        "bytes": facts.length,
        "event": event,
    }
