"""A request under way."""

from __future__ import annotations

from collections.abc import Callable

from segsrv.http.answers import Answer


class Exchange:
    """Keeps the answer to a request, as soon as there is one, until it is its turn."""

    __slots__ = ("_on_answered", "answer")

    def __init__(self, on_answered: Callable[[], None]) -> None:
        self._on_answered = on_answered
        self.answer: Answer | None = None

    def give(self, answer: Answer) -> None:
        self.answer = answer
        self._on_answered()
