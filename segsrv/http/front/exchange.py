"""A request under way."""

from __future__ import annotations

from typing import Protocol

from segsrv.http.answers import Answer


class Waiting(Protocol):
    """Who waits for answers."""

    def answered(self) -> None:
        """Be told that there is one more."""


class Exchange:
    """Keeps the answer to a request, as soon as there is one, until it is its turn."""

    __slots__ = ("_door", "answer")

    def __init__(self, door: Waiting) -> None:
        self._door = door
        self.answer: Answer | None = None

    def give(self, answer: Answer) -> None:
        self.answer = answer
        self._door.answered()
