"""What `/metrics` says of commits."""

from __future__ import annotations

from dataclasses import dataclass, field

COMMIT_SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(slots=True)
class CommitStats:
    """Plain counters; `seconds_counts` holds one count for each bound and one above all."""

    commits: int = 0
    events: int = 0
    failures: int = 0
    seconds_sum: float = 0.0
    seconds_counts: list[int] = field(
        default_factory=lambda: [0] * (len(COMMIT_SECONDS_BOUNDS) + 1)
    )

    def observe(self, seconds: float, events: int) -> None:
        self.commits += 1
        self.events += events
        self.seconds_sum += seconds
        index = sum(seconds > bound for bound in COMMIT_SECONDS_BOUNDS)
        self.seconds_counts[index] += 1
