"""Leaves out what a sink was given before, by its index of event ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from segsrv.delivery.bundle import Slice, slices_of
from segsrv.delivery.dedup import DedupIndex, Sent

SETTLE_PARTS = 12
"""After how large a part of the ids that are kept; the index wants it before a third."""


class Judge:
    """Asks one sink's index; belongs to one thread at a time, whatever opened it.

    For each batch: `pick`, then it is sent. `settle` is for when a cursor was saved that has all
    that was picked behind it: what is being sent may be judged again, and must find what it found.
    """

    def __init__(self, ids_max: int, make: Callable[[], DedupIndex]) -> None:
        self.index: DedupIndex | None = None
        self._make = make
        self._settle_at = ids_max // SETTLE_PARTS
        self._judged = 0

    @property
    def is_due(self) -> bool:
        """Whether so much was judged that the index should be settled soon."""
        return self._judged >= self._settle_at

    def open(self) -> None:
        """Read the index from disk, or begin one; `pick` needs it."""
        self.index = self._make()

    def pick(self, slices: Sequence[Slice]) -> list[Slice]:
        """Return the events that are no repetitions, once the index has them on disk."""
        assert self.index is not None, "it was opened first"
        sent = [part for piece in slices for part in _sent(piece)]
        self._judged += sum(len(part.ids) for part in sent)
        kept = self.index.judge(sent)
        self.index.sync()
        picked: list[Slice] = []
        start = 0
        for piece in slices:
            end = start + piece.high - piece.low
            picked += slices_of(piece, [bool(flag) for flag in kept[start:end]])
            start = end
        return picked

    def settle(self) -> None:
        """Say that a cursor covers all that was picked: none of it is judged again."""
        self._judged = 0
        if self.index is not None:
            self.index.settle()

    def close(self) -> None:
        if self.index is not None:
            self.index.close()


def _sent(piece: Slice) -> Iterator[Sent]:
    """Yield the events of *piece* by request."""
    first = 0
    for run in piece.frame.runs:
        low, high = max(piece.low - first, 0), min(piece.high - first, len(run.ids))
        if low < high:
            # An event takes more than a byte, so no other frame has these positions.
            start = piece.frame.position + first
            yield Sent(
                run.key_id,
                run.format,
                run.received_ms,
                piece.journal_id,
                run.ids[low:high],
                range(start + low, start + high),
            )
        first += len(run.ids)
