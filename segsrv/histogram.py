"""Counts of durations by how long they were; an observation costs a look-up and two additions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Durations in seconds; `counts` has one for each of *bounds*, and one for all above them.

    A duration that is exactly a bound counts there, as Prometheus' `le` says. It belongs to one
    thread.
    """

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum_s = 0.0

    def observe(self, duration_s: float) -> None:
        self.counts[bisect_left(self.bounds, duration_s)] += 1
        self.sum_s += duration_s
