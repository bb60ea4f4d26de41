"""Limits of bytes that remember a refusal, so that readiness does not come and go."""

from __future__ import annotations

from segsrv.errors import JournalFull

FREE_SHARE = 0.05
"""Of a limit that was reached so much must be free before the journal counts as ready again."""


class Limit:
    """A limit of bytes, and whether somebody was refused for it since there was room again."""

    def __init__(self, bytes_max: int, text: str) -> None:
        self._bytes_max = bytes_max
        self._text = text
        self._has_refused = False

    def check(self, used: int, size: int) -> None:
        """Raise JournalFull unless there is room for *size* bytes beside *used*."""
        self._look(used)
        if used + size > self._bytes_max:
            self._has_refused = self._has_refused or size > 0
            raise self._full(used)

    def room(self, used: int) -> int:
        """Return how many bytes fit beside *used* while nobody has to be told of the limit."""
        self._look(used)
        return 0 if self._has_refused else self._bytes_max - used

    def check_free(self, used: int) -> None:
        """Raise JournalFull from the first refusal until FREE_SHARE is free again."""
        self._look(used)
        if self._has_refused:
            full = self._full(used)
            raise JournalFull(f"{full}; events were refused, and {FREE_SHARE:.0%} is not free yet")

    def _look(self, used: int) -> None:
        if used <= self._bytes_max * (1 - FREE_SHARE):
            self._has_refused = False

    def _full(self, used: int) -> JournalFull:
        return JournalFull(f"{self._text.format(used)}, the limit is {self._bytes_max}")
