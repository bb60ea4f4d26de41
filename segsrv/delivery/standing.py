"""Where one sink stands in every journal, and what of that is on disk."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from segsrv.delivery.bundle import Bundle
from segsrv.delivery.cursor import NOTHING, Cursor, CursorFile, InHand, Mark, Span
from segsrv.delivery.inheritance import ANY_ID
from segsrv.delivery.source import Source
from segsrv.sinks.base import Ends, Placement

logger = logging.getLogger(__name__)

OPEN_POLL_S = 0.05
SETTLE_S = 1.0
"""How long after the last save of a cursor it is due again, where nothing else asks for one."""

EVENT_BYTES = 1_000
"""What an event is thought to take as long as none was read."""


@dataclass(slots=True)
class ShipperStats:
    """Plain counters of one shipper."""

    batches: int = 0
    events: int = 0
    filtered_events: int = 0


class Standing:
    """The marks of one sink. `save` runs in its shipper's thread, the rest on its loop.

    *guard* raises OSError when the cursor's file may be another server's.
    """

    def __init__(
        self, name: str, sources: Sequence[Source], file: CursorFile, guard: Callable[[], None]
    ) -> None:
        self.sources = {source.name: source for source in sources}
        self.file = file
        self.placement: Placement = {}
        self.is_known = False
        self.is_unsaved = False
        self.saved_at = 0.0
        self._event_bytes = 0.0
        self.name = name
        self._guard = guard
        self._marks: dict[str, tuple[str, Mark]] = {}
        self._safe: tuple[dict[str, tuple[str, Mark]], Placement] = ({}, {})

    @property
    def lag_bytes(self) -> int:
        """Bytes of the journals that are not delivered yet."""
        return sum(
            max(source.end - self.mark(source).position, 0) for source in self.sources.values()
        )

    @property
    def lag_events(self) -> int:
        """About how many events that is, if they are as large as those that were read last."""
        lag_bytes = self.lag_bytes
        return max(round(lag_bytes / (self._event_bytes or EVENT_BYTES)), 1) if lag_bytes else 0

    def note_size(self, event_bytes: float) -> None:
        """Take note that events were read that take so many bytes each; 0 says nothing."""
        if event_bytes:
            # A batch of few says less than several of them do.
            known = self._event_bytes or event_bytes
            self._event_bytes = known + (event_bytes - known) / 4

    @property
    def unsaved_bytes(self) -> int:
        """Bytes that are delivered, and the disk does not know."""
        safe, _placement = self._safe
        return sum(
            mark.position - safe.get(name, (journal_id, Mark(0)))[1].position
            for name, (journal_id, mark) in self._marks.items()
        )

    @property
    def unreleased_bytes(self) -> int:
        """Bytes that are delivered, but that a fall back to the older cursor would need."""
        return sum(
            self.mark(source).position - self.floor(source) for source in self.sources.values()
        )

    @property
    def is_due(self) -> bool:
        """Whether the last save is SETTLE_S ago."""
        return time.monotonic() >= self.saved_at + SETTLE_S

    def mark(self, source: Source) -> Mark:
        """Return where this sink goes on in a journal."""
        journal_id, mark = self._marks.get(source.name, ("", Mark(0)))
        return mark if journal_id == source.id else Mark(source.first)

    def marks(self) -> dict[str, Mark]:
        """Return where it goes on in each journal that is open."""
        return {name: self.mark(source) for name, source in self.sources.items() if source.id}

    def ends(self) -> Ends:
        """Return where it goes on in each journal that is known, by the journal's id."""
        known = dict(self._marks.values()) | {
            source.id: self.mark(source) for source in self.sources.values() if source.id
        }
        return {journal_id: (*mark,) for journal_id, mark in known.items()}

    def floor(self, source: Source) -> int:
        """Return below which position this sink needs nothing of a journal, whatever happens."""
        return self.file.floor(source.name, source.id) if self.is_known else 0

    async def until_open(self, names: Iterable[str]) -> None:
        """Wait for the workers that have these journals to come up."""
        for name in names:
            # The board has no event to wait for.
            while not self.sources[name].id:  # noqa: ASYNC110
                await asyncio.sleep(OPEN_POLL_S)

    def take_over(self, marks: Mapping[str, tuple[str, Mark]]) -> None:
        """Go on from *marks*, each with its journal's id; the journals are open."""
        for name, (journal_id, mark) in marks.items():
            source = self.sources.get(name)
            if source is None:
                # It is kept for when there are as many workers again.
                self._marks[name] = (journal_id, mark)
            elif journal_id not in (source.id, ANY_ID):
                logger.error(
                    "cursor: of another journal, delivering again what is held sink=%s journal=%s",
                    self.name,
                    name,
                )
            else:
                self._marks[name] = (source.id, mark)
        self.is_known = True

    def advance(self, bundle: Bundle) -> None:
        """Take note that a bundle was delivered."""
        for name, span in bundle.spans.items():
            self._marks[name] = (span.journal_id, span.end)
        self.is_unsaved = True

    def known(self, marks: Mapping[str, Mark]) -> dict[str, tuple[str, Mark]]:
        """Return *marks* with the ids of their journals."""
        return {name: (self.sources[name].id, mark) for name, mark in marks.items()}

    def move(self, marks: Mapping[str, Mark]) -> None:
        """Go on at *marks* in the journals that they name."""
        self._marks.update(self.known(marks))

    def cursor(
        self, sending: Mapping[str, Span] | None = None, in_hand: InHand = NOTHING
    ) -> Cursor:
        """Return what a cursor says now, with the spans that are about to be sent."""
        spans = {
            name: Span(journal_id, mark, mark) for name, (journal_id, mark) in self._marks.items()
        }
        return Cursor({**spans, **(sending or {})}, self.placement, in_hand)

    def save(self, cursor: Cursor) -> None:
        """Put *cursor* on stable storage.

        Raises:
            OSError: The disk refused, or the data directory is another server's by now.

        """
        self._guard()
        self.file.save(cursor)

    def saved(self) -> None:
        """Take note that the disk has all."""
        self.is_unsaved = False
        self.saved_at = time.monotonic()
        self.keep()

    def keep(self) -> None:
        """Take note that the disk would bring delivery back to where it is now."""
        self._safe = (dict(self._marks), self.placement)

    def rewind(self) -> None:
        """Go back to where the disk would bring delivery."""
        marks, self.placement = self._safe
        self._marks = dict(marks)
