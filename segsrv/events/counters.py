"""Plain counters of the event path; an increment is all that they cost it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from segsrv.events.formats import Format
from segsrv.events.pipeline import Outcome


@dataclass(slots=True)
class Counters:
    """Counts since the process began.

    `requests` by status, `events` by (format's name, Segment type), `set_aside` by reason.
    """

    requests: Counter[int] = field(default_factory=Counter)
    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)

    def count(self, output: Format, outcome: Outcome) -> None:
        for kind, events in outcome.types.items():
            self.events[output.name, kind] += events
        if outcome.reasons:
            self.set_aside.update(outcome.reasons)
