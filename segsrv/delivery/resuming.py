"""Finds what a sink has already of that which comes next, by comparing the lines.

The sink's tail holds lines of all journals, each journal's in order, but nobody wrote down how they
lie between each other. So of each journal the next lines are held against what stands next in the
tail, and the one that fits goes on. Whatever is passed over in the tail is passed over in a journal
as well; where two would fit, both have the same lines.

A line that fits none was lost by its journal since, or passes no filter any more, and stays. If it
is still to come, the tail is not what would be written now, and what follows is cut off.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from segsrv.delivery import bundle as bundles
from segsrv.delivery.bundle import Limits, Slice, content_of
from segsrv.delivery.cursor import Mark
from segsrv.delivery.source import Source
from segsrv.sinks.base import Tail

READ = Limits(1 << 20, 1 << 20, 0.0)
AHEAD_BYTES_MAX = 256 << 20
"""How far journals are searched for a line that does not come next: further than ever is sent
between two cursors of two slots."""

Pick = Callable[[Sequence[Slice]], Sequence[Slice]]


class _Next:
    """What comes next in one journal; `mark` is behind what was found in the tail."""

    def __init__(self, source: Source, mark: Mark, pick: Pick) -> None:
        self.mark = mark
        self._source = source
        self._pick = pick
        self._read_to = mark
        self._slices: deque[Slice] = deque()

    def peek(self) -> Slice | None:
        while not self._slices:
            more, end = self._read(self._read_to)
            if end == self._read_to:
                return None
            self._slices.extend(more)
            self._read_to = end
        return self._slices[0]

    def take(self, events: int) -> None:
        part = self._slices.popleft()
        low = part.low + events
        self.mark = Mark(part.frame.position, low)
        if low < part.high:
            self._slices.appendleft(part._replace(low=low))
        elif not self._slices:
            # With what no filter lets pass.
            self.mark = self._read_to

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that come next, as many as AHEAD_BYTES_MAX of the journal hold."""
        for part in self._slices:
            yield from io.BytesIO(content_of(part))
        at = self._read_to
        while at.position < self.mark.position + AHEAD_BYTES_MAX:
            more, end = self._read(at)
            if end == at:
                return
            for part in more:
                yield from io.BytesIO(content_of(part))
            at = end

    def _read(self, at: Mark) -> tuple[Sequence[Slice], Mark]:
        source = self._source
        bundle = bundles.read([source], {source.name: at}, READ)
        span = bundle.spans.get(source.name)
        return self._pick(bundle.slices), span.end if span else at


def pass_over(
    tail: Tail, sources: Sequence[Source], marks: Mapping[str, Mark], pick: Pick
) -> dict[str, Mark]:
    """Return the marks behind what *tail* has of the events behind *marks* that *pick* lets go.

    The tail then ends where these marks are.

    Raises:
        OSError: A disk refused.

    """
    journals = {source.name: _Next(source, marks[source.name], pick) for source in sources}
    ahead: set[int] | None = None
    while (line := tail.line()) is not None:
        events, size, found = 0, 0, None
        for journal in journals.values():
            if (part := journal.peek()) is not None:
                fitting = tail.matches(content_of(part))
                if fitting[0] > events:
                    (events, size), found = fitting, journal
        if found is not None:
            tail.keep(size)
            found.take(events)
            continue
        if ahead is None:
            ahead = {hash(line) for journal in journals.values() for line in journal.lines()}
        if hash(line) in ahead:
            break
        tail.keep(len(line))
    tail.cut()
    return {name: journal.mark for name, journal in journals.items()}
