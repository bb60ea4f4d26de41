"""What `/metrics` says of commits."""

from __future__ import annotations

from dataclasses import dataclass, field

from segsrv.histogram import Histogram

COMMIT_SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(slots=True)
class CommitStats:
    """Plain counters, and how long commits took."""

    events: int = 0
    failures: int = 0
    seconds: Histogram = field(default_factory=lambda: Histogram(COMMIT_SECONDS_BOUNDS))

    @property
    def commits(self) -> int:
        return sum(self.seconds.counts)

    def observe(self, seconds: float, events: int) -> None:
        self.events += events
        self.seconds.observe(seconds)
