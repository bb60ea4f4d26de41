"""How fast a sink that is behind catches up, for people who wait for it."""

from __future__ import annotations

import logging
from collections import deque
from typing import NamedTuple

logger = logging.getLogger(__name__)

WINDOW_S = 30.0
SAMPLE_INTERVAL_S = 1.0
BEHIND_S = 10.0
"""A sink that lags by more than a batch for so long is behind, and no longer only busy."""
SAY_INTERVAL_S = 30.0
SHRINKING_S_MIN = 5.0
"""A lag that shrinks for less may grow on the whole."""


class _Sample(NamedTuple):
    at_s: float
    events: int
    lag_bytes: int


class Progress:
    """What was seen of one sink's delivery lately; *at_s* is a clock that never goes back.

    Logs every SAY_INTERVAL_S while the sink is behind and takes events, and when that is over.
    """

    def __init__(self, name: str, *, batch_bytes_max: int) -> None:
        self._name = name
        self._batch_bytes_max = batch_bytes_max
        self._samples: deque[_Sample] = deque()
        self._is_working = False
        self._behind_since_s: float | None = None
        self._said_at_s: float | None = None

    @property
    def events_per_s(self) -> float:
        """Events delivered a second, over the last WINDOW_S."""
        if len(self._samples) < 2:
            return 0.0
        first, last = self._samples[0], self._samples[-1]
        return (last.events - first.events) / (last.at_s - first.at_s)

    @property
    def eta_s(self) -> float | None:
        """Seconds until nothing is left, if all goes on like this.

        0 for less than a batch, None while the lag doesn't shrink or the sink takes nothing.
        """
        if not self._is_working:
            return None
        last = self._samples[-1]
        if last.lag_bytes <= self._batch_bytes_max:
            return 0.0
        # What came before the peak, as in a burst or an outage, says nothing of what is left.
        peak = max(self._samples, key=lambda sample: (sample.lag_bytes, sample.at_s))
        took_s, gained = last.at_s - peak.at_s, peak.lag_bytes - last.lag_bytes
        if took_s < SHRINKING_S_MIN:
            return None
        return last.lag_bytes * took_s / gained

    def note(self, at_s: float, *, events: int, lag_bytes: int, is_working: bool) -> None:
        """Take note of how many *events* were delivered in all, and of what is left."""
        samples = self._samples
        if samples and at_s < samples[-1].at_s + SAMPLE_INTERVAL_S:
            return
        self._is_working = is_working
        samples.append(_Sample(at_s, events, lag_bytes))
        while len(samples) > 2 and samples[1].at_s <= at_s - WINDOW_S:
            samples.popleft()
        if lag_bytes <= self._batch_bytes_max:
            self._caught_up(at_s)
            return
        if self._behind_since_s is None:
            self._behind_since_s = at_s
        due_s = self._behind_since_s + BEHIND_S
        if self._said_at_s is not None:
            due_s = max(due_s, self._said_at_s + SAY_INTERVAL_S)
        # Of one that fails it is said why, once.
        if at_s >= due_s and is_working:
            self._said_at_s = at_s
            self._say(lag_bytes)

    def _say(self, lag_bytes: int) -> None:
        eta_s = self.eta_s
        logger.info(
            "sink: behind sink=%s events_per_s=%.0f lag_bytes=%d eta_s=%s",
            self._name,
            self.events_per_s,
            lag_bytes,
            "unknown" if eta_s is None else f"{eta_s:.0f}",
        )

    def _caught_up(self, at_s: float) -> None:
        if self._said_at_s is not None and self._behind_since_s is not None:
            took_s = at_s - self._behind_since_s
            logger.info("sink: caught up sink=%s after_s=%.0f", self._name, took_s)
        self._behind_since_s = self._said_at_s = None
