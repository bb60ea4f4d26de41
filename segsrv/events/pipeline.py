"""The event path as one pure step: a parsed body in, lines for the journal out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from segsrv.events import allowed, loop, segment
from segsrv.events.batches import Batch
from segsrv.events.formats import Format
from segsrv.events.lookups import Hits, Lookups, Places, UserAgentParts
from segsrv.events.outcome import Outcome
from segsrv.events.payload import Payload
from segsrv.events.reference import loop as reference
from segsrv.events.sender import Clock, Moment, Sender
from segsrv.events.shapes import Lookup

Store = Callable[
    [list[Any], int, Format, Sender, Moment, Batch | None, Lookups, int, Outcome], None
]
SLICE_ITEMS = 32
"""After so many items of a batch others may go on, and after each that takes long itself."""


class Pipeline:
    """Maps, enriches and serialises; holds limits, the two look-ups and what these found lately.

    `locate` may be replaced at any time, as it is when a database on disk is: what was found by the
    one before is forgotten, and each run goes by the one that it began with.
    """

    def __init__(self, *, event_bytes_max: int, parse_user_agent: Lookup, locate: Lookup) -> None:
        self.event_bytes_max = event_bytes_max
        self.hits = Hits()
        self._clock = Clock()
        self._user_agents = UserAgentParts(parse_user_agent, self.hits)
        self.locate = locate

    @property
    def locate(self) -> Lookup:
        return self._lookups.places.locate

    @locate.setter
    def locate(self, locate: Lookup) -> None:
        self._lookups = Lookups(self._user_agents, Places(locate, self.hits), self.hits)

    def run(
        self, payload: Payload, sender: Sender, output: Format, *, now: datetime | None = None
    ) -> Outcome:
        """Return the stored lines of *payload*, in its order; its items are consumed.

        A bad item of a batch is set aside and costs its neighbours nothing.

        Raises:
            BadRequest: The body was a single event, and that event can't be stored.

        """
        moment = self._clock.moment() if now is None else Moment(now)
        outcome = Outcome(moment.received_ms)
        items, batch = payload.items, None
        if sender.types:
            for _ in self._set_aside(payload, sender, moment, outcome):
                pass
        if payload.is_batch:
            items.reverse()
            batch = Batch(payload)
        store = _store_of(output)
        lookups, event_bytes_max = self._lookups, self.event_bytes_max
        while items:
            store(
                items,
                len(items),
                output,
                sender,
                moment,
                batch,
                lookups,
                event_bytes_max,
                outcome,
            )
        return outcome

    def steps(
        self,
        payload: Payload,
        sender: Sender,
        output: Format,
        outcome: Outcome,
        *,
        now: datetime | None = None,
    ) -> Iterator[None]:
        """Do the same into *outcome*, some items a step, so that a long batch can be interrupted.

        An item is let go when its line is made: together they take many times the lines' memory.
        """
        moment = self._clock.moment() if now is None else Moment(now)
        outcome.received_ms = moment.received_ms
        if sender.types:
            yield from self._set_aside(payload, sender, moment, outcome)
        items = payload.items
        items.reverse()
        batch = Batch(payload) if payload.is_batch else None
        store = _store_of(output)
        # The reference does not tell what takes long.
        slice_items = 1 if store is reference.store else SLICE_ITEMS
        lookups = self._lookups
        while items:
            count = min(len(items), slice_items)
            store(
                items,
                count,
                output,
                sender,
                moment,
                batch,
                lookups,
                self.event_bytes_max,
                outcome,
            )
            yield

    def _set_aside(
        self, payload: Payload, sender: Sender, moment: Moment, outcome: Outcome
    ) -> Iterator[None]:
        return allowed.set_aside(
            *(payload.items, sender, moment, self.event_bytes_max, outcome),
            is_batch=payload.is_batch,
        )


def _store_of(output: Format) -> Store:
    if output.keeps_shape:
        return segment.store
    return loop.store if output.is_of_segment else reference.store
