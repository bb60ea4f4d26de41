"""A body that comes in several packets."""

from __future__ import annotations

from segsrv.http.caller import Caller
from segsrv.http.front.heads import Visit
from segsrv.http.receiving import Receiving


class Body:
    """What is there of a body, counted as being received, and the head that it belongs to.

    It ends by `whole` or `unused`, of which each gives all bytes back.
    """

    __slots__ = ("_pieces", "_receiving", "_size", "caller", "head", "missing_bytes")

    def __init__(
        self, receiving: Receiving, caller: Caller | Visit, head: bytes, missing_bytes: int
    ) -> None:
        self.caller = caller
        self.missing_bytes = missing_bytes
        self.head = head
        self._receiving = receiving
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """Add less than is missing.

        Raises:
            Overloaded: All bodies together are over the limit; *data* is part of this one still.

        """
        self._pieces.append(data)
        self._size += len(data)
        self.missing_bytes -= len(data)
        self._receiving.add(len(data))

    def whole(self, last: bytes) -> bytes:
        """Return the body, of which *last* is what was missing."""
        self._receiving.give_back(self._size)
        return b"".join((*self._pieces, last))

    def unused(self) -> bytes:
        """Return the head and what is there of the body."""
        self._receiving.give_back(self._size)
        return b"".join((self.head, *self._pieces))
