"""Plain counters of the event path; an increment is all that they cost it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from segsrv.events.formats import Format
from segsrv.events.outcome import Outcome
from segsrv.histogram import Histogram

PathKind = Literal[
    "batch",
    "single",
    "pixel",
    "telemetry",
    "settings",
    "script",
    "probe",
    "preflight",
    "other",
]
INGEST_PATHS: frozenset[PathKind] = frozenset({"batch", "single", "pixel", "telemetry"})
OK = "ok"
REQUEST_SECONDS_BOUNDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


AnswersKey = tuple[str, int, PathKind, str]
"""Code, status, kind of path, key id."""


@dataclass(slots=True)
class Counters:
    """Counts since the process began.

    `answers` by (code, status, kind of path, key id): `OK` is the code of what is no error, and the
    key id is empty where no configured key was found. `events` by (format's name, Segment type, key
    id), `set_aside` by reason. `request_seconds` has the times from a body's last byte to its
    answer.
    """

    answers: Counter[AnswersKey] = field(default_factory=Counter)
    events: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    request_seconds: Histogram = field(default_factory=lambda: Histogram(REQUEST_SECONDS_BOUNDS))

    def count(self, output: Format, key_id: str, outcome: Outcome) -> None:
        if len(outcome.kinds) == 1:
            self.events[output.name, outcome.kinds[0], key_id] += 1
        else:
            for kind, events in outcome.types.items():
                self.events[output.name, kind, key_id] += events
        if outcome.reasons:
            self.set_aside.update(outcome.reasons)

    def ingest_statuses(self) -> Counter[int]:
        """Return how many answers to ingest requests had each status."""
        statuses: Counter[int] = Counter()
        # A copy: another thread may ask while the event loop counts on.
        for (_code, status, path, _key), count in list(self.answers.items()):
            if path in INGEST_PATHS:
                statuses[status] += count
        return statuses
