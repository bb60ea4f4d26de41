"""Where a sink stands in every journal, kept so that a batch is the same again after a crash."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from segsrv.files import FILE_MODE
from segsrv.journal import slots
from segsrv.journal.slots import SlotFile, Slots
from segsrv.sinks.base import Placement

logger = logging.getLogger(__name__)

SUFFIX = ".cursor"
VERSION = 1


class Mark(NamedTuple):
    """A place between two events: a frame's position, and how many of its events lie before."""

    position: int
    skip: int = 0


class Span(NamedTuple):
    """All before `start` is delivered; with `end` behind it, what lies between was being sent."""

    journal_id: str
    start: Mark
    end: Mark


Ranges = tuple[tuple[int, int], ...]
"""Numbers of events in a batch, as stretches from the first number up to the second."""


class InHand(NamedTuple):
    """The batch that is being sent: its id, how many events it has, and what of it is to be sent.

    `parts` are sent one after the other; only the first may have been sent already. There is none
    as long as the batch was not split.
    """

    batch_id: str = ""
    events: int = 0
    parts: Sequence[Ranges] = ()


NOTHING = InHand()


@dataclass(slots=True, frozen=True)
class Cursor:
    """A sink's span in each journal, by the journal's name, and its newest placement."""

    spans: Mapping[str, Span] = field(default_factory=dict)
    placement: Placement = field(default_factory=dict)
    in_hand: InHand = NOTHING

    @property
    def is_sending(self) -> bool:
        return any(span.end != span.start for span in self.spans.values())

    def encode(self) -> bytes:
        journals = {
            name: [span.journal_id, *span.start, *span.end] for name, span in self.spans.items()
        }
        raw = {"version": VERSION, "journals": journals, "placement": self.placement}
        if self.in_hand.batch_id:
            raw["batch"] = self.in_hand[:]
        return orjson.dumps(raw)

    @classmethod
    def decode(cls, data: bytes) -> Cursor:
        """Read what `encode` wrote.

        Raises:
            ValueError: It is no cursor, or one of another version.

        """
        raw = orjson.loads(data)
        if not isinstance(raw, dict) or raw.get("version") != VERSION:
            raise ValueError("not a cursor of this version")
        journals, placement = raw.get("journals"), raw.get("placement")
        if not isinstance(journals, dict) or not isinstance(placement, dict):
            raise ValueError("not a cursor")  # noqa: TRY004 - one error for all that it may hold
        spans = {name: _span(entry) for name, entry in journals.items()}
        # Releases that gave a batch its id by its place wrote none.
        return cls(spans, placement, _in_hand(raw["batch"]) if "batch" in raw else NOTHING)


def _span(entry: Any) -> Span:
    match entry:
        case [str(journal_id), int(start), int(start_skip), int(end), int(end_skip)]:
            span = Span(journal_id, Mark(start, start_skip), Mark(end, end_skip))
            if Mark(0) <= span.start <= span.end and min(start_skip, end_skip) >= 0:
                return span
    raise ValueError("not a span")


def _in_hand(entry: Any) -> InHand:
    match entry:
        case [str(batch_id), int(events), list(parts)]:
            with contextlib.suppress(TypeError):
                ranges = [tuple((int(low), int(high)) for low, high in part) for part in parts]
                if all(0 <= low < high <= events for part in ranges for low, high in part):
                    return InHand(batch_id, events, ranges)
    raise ValueError("not a batch")


class CursorFile:
    """The cursor of one sink on disk, in two slots; belongs to one thread at a time.

    A save needs no free space. `floor` is what a fall back to the older slot would start from.
    """

    def __init__(self, path: Path, file_mode: int = FILE_MODE) -> None:
        self.path = path
        self.damaged = 0
        self._file = SlotFile(path, file_mode=file_mode)
        self._kept: list[Cursor] = []

    def load(self) -> Cursor | None:
        """Return the newest sound cursor; None if there is none, and all is to be delivered.

        The file is made now, if it can be: saves need no room then.
        """
        newest, older, self.damaged = _decoded(self._file.load())
        self._kept = [cursor for cursor in (newest, older) if cursor is not None]
        if self.damaged:
            what = "going on from another one" if self._kept else "delivering again what is held"
            logger.error("cursor: damaged, %s file=%s", what, self.path.name)
        return self.newest

    def save(self, cursor: Cursor) -> None:
        """Put *cursor* on stable storage in place of the older of the two."""
        self._file.save(cursor.encode())
        self._kept = [cursor, *self._kept[:1]]

    @property
    def newest(self) -> Cursor | None:
        """What was loaded or saved last."""
        return self._kept[0] if self._kept else None

    @property
    def older(self) -> Cursor | None:
        """What a fall back to the older slot would start from; None if there is none."""
        return self._kept[1] if len(self._kept) == 2 else None

    @property
    def batch_ids(self) -> set[str]:
        """The batches that either slot says are being sent."""
        return {cursor.in_hand.batch_id for cursor in self._kept} - {""}

    @property
    def is_settled(self) -> bool:
        """Whether both slots say the same."""
        return len(self._kept) == 2 and self._kept[0] == self._kept[1]

    def floor(self, name: str, journal_id: str) -> int:
        """Return the position in a journal below which neither slot needs anything."""
        return _floor(self._kept, name, journal_id)

    def close(self) -> None:
        self._file.close()


def floor(path: Path, name: str, journal_id: str) -> int:
    """Return what `CursorFile.floor` would say, changing nothing; 0 where there is no cursor.

    Raises:
        OSError: The disk refused to read.

    """
    newest, older, _damaged = read(path)
    return _floor([cursor for cursor in (newest, older) if cursor], name, journal_id)


def read(path: Path) -> tuple[Cursor | None, Cursor | None, int]:
    """Return the newest and the older cursor of a file, and how many damaged ones it holds.

    Changes nothing, so that it may be asked beside the server that writes the file.

    Raises:
        OSError: The disk refused to read.

    """
    return _decoded(slots.read(path))


def _floor(kept: Iterable[Cursor], name: str, journal_id: str) -> int:
    spans = [cursor.spans.get(name) for cursor in kept]
    known = [span.start.position for span in spans if span and span.journal_id == journal_id]
    return min(known, default=0)


def _decoded(kept: Slots) -> tuple[Cursor | None, Cursor | None, int]:
    damaged = kept.damaged
    found: list[Cursor | None] = []
    for data in (kept.newest, kept.older):
        cursor = None
        if data is not None:
            try:
                cursor = Cursor.decode(data)
            except ValueError:
                damaged += 1
        found.append(cursor)
    newest, older = found
    if newest is None:
        newest, older = older, None
    return newest, older, damaged
