"""The latest requests that were refused, for people who ask why nothing arrives."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

KEPT_MAX = 50
A_SECOND_MAX = 20
"""So many are taken down; whoever floods a server learns no more, and costs no more."""
EXCERPT_BYTES_MAX = 500


class Refusals:
    """Keeps the newest KEPT_MAX; belongs to one event loop. They are numbered from 1 on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT_MAX)
        self._number = 0
        self._second, self._in_second = 0, 0

    def is_due(self) -> bool:
        """Count one; say whether it is to be taken down."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        return self._in_second <= A_SECOND_MAX

    def add(self, **said: Any) -> None:
        self._number += 1
        self._kept.append(
            {
                "kind": "refused",
                "number": self._number,
                "at_ms": time.time_ns() // 1_000_000,
                **said,
            }
        )

    def report(self) -> list[dict[str, Any]]:
        """Return those that are kept, the oldest first."""
        return list(self._kept)


def excerpt_of(body: bytes) -> str:
    """Return the beginning of *body* as text, whatever bytes it has."""
    return body[:EXCERPT_BYTES_MAX].decode("utf-8", "replace")
