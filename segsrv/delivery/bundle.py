"""What is read from all journals for one batch of one sink, and the events of it that it gets."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, groupby
from typing import NamedTuple

import orjson

from segsrv.delivery.cursor import Mark, Ranges, Span
from segsrv.delivery.source import Source
from segsrv.errors import SinkMisconfigured
from segsrv.journal.facts import Facts, Run, each
from segsrv.journal.reader import Stored
from segsrv.settings import Key, SinkConfig
from segsrv.sinks.base import PLACEMENT_BYTES_MAX, Batch, Ends, Lines, Placement

ID_CHARS = 24
TIME_CHARS = 12
PART_ID_CHARS = 8
UNSAVED_BYTES_MAX = 32 << 20
SIZED_FRAMES_MAX = 16
STEP_BYTES = 512 << 10
"""What a `Writer` gets at once, unless a frame is larger. Of 8 MiB each byte costs twice as much,
since no cache holds them, and requests wait meanwhile.
"""


class Slice(NamedTuple):
    """The events of a frame from number *low* on, up to *high*."""

    journal_id: str
    frame: Stored
    low: int
    high: int


@dataclass(slots=True, frozen=True)
class Bundle:
    """Consecutive events of each journal: where they stand, and what was read."""

    spans: Mapping[str, Span]
    slices: Sequence[Slice]
    events: int

    @property
    def received_ms(self) -> int:
        """When the oldest of these events was received; 0 if that is not known."""
        # The first of each journal is its oldest; facts cost something to read.
        first = {part.journal_id: part.frame for part in reversed(self.slices)}
        known = [frame.runs[0].received_ms for frame in first.values() if frame.runs]
        return min(known, default=0)

    @property
    def event_bytes(self) -> float:
        """How many bytes of the journals an event takes, on average; 0 without events.

        Of the first frames only: there may be one for each event.
        """
        frames = [part.frame for part in self.slices[:SIZED_FRAMES_MAX]]
        events = sum(frame.events for frame in frames)
        return sum(frame.size for frame in frames) / events if events else 0.0

    @property
    def ends(self) -> Ends:
        """Up to where the journals of these events are delivered once these are."""
        return {span.journal_id: (*span.end,) for span in self.spans.values()}

    @property
    def size(self) -> int:
        """How much of the journals it takes, up to the frame that it may end in."""
        return sum(span.end.position - span.start.position for span in self.spans.values())

    def batch_id(self, salt: str = "", now_ms: int = 0) -> str:
        """Return what names exactly this part of these journals; without *salt*, of these only.

        A directory that was copied, or put back to what it was, holds other events at a position
        that its journal's id and the position can't tell apart; *salt* is random at each start.
        """
        place = [
            [name, span[0], *span.start, *span.end] for name, span in sorted(self.spans.items())
        ]
        if not salt:
            return _digest(place)
        return f"{now_ms:0{TIME_CHARS}x}-{_digest([salt, place])}"


@dataclass(slots=True, frozen=True)
class Limits:
    """How much goes to a sink at once, and how long an event may wait for more.

    With `step_bytes` no more than that is read at once, unless a frame is larger. Of a sink with a
    `Writer`, `unsaved_bytes_max` of the journals go before the cursor is saved.
    """

    events_max: int
    bytes_max: int
    interval_s: float
    unsaved_bytes_max: int = UNSAVED_BYTES_MAX
    step_bytes: int = 0

    @property
    def enough_bytes(self) -> int:
        """How much has to be there to be sent without waiting for more."""
        return min(self.step_bytes or self.bytes_max, self.bytes_max)

    def in_steps(self) -> Limits:
        """Return these for a sink that has a `Writer`."""
        return replace(self, step_bytes=STEP_BYTES)


@dataclass(slots=True, frozen=True)
class Filter:
    """Which events a sink gets; an empty set means all.

    `other_key_ids` are those of keys whose events go to other sinks only.
    """

    types: frozenset[str] = frozenset()
    key_ids: frozenset[str] = frozenset()
    other_key_ids: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.types or self.key_ids or self.other_key_ids)

    @classmethod
    def of(cls, config: SinkConfig, name: str, keys: Iterable[Key]) -> Filter:
        """Return that of the sink *name*, by what it and *keys* say."""
        others = (key.id for key in keys if key.sinks and name not in key.sinks)
        return cls(frozenset(config.types), frozenset(config.key_ids), frozenset(others))

    def pick(self, slices: Sequence[Slice]) -> list[Slice]:
        """Return the parts of *slices* that pass."""
        picked: list[Slice] = []
        for part in slices:
            mask = [passes for run in part.frame.runs for passes in self._of_run(run)]
            picked += slices_of(part, mask[part.low : part.high])
        return picked

    def _of_run(self, run: Run) -> list[bool]:
        count = len(run.lengths)
        is_other = run.key_id in self.other_key_ids
        if is_other or (self.key_ids and run.key_id not in self.key_ids):
            return [False] * count
        if not self.types:
            return [True] * count
        if isinstance(run.types, str):
            return [run.types in self.types] * count
        return [kind in self.types for kind in run.types]


def count(slices: Sequence[Slice]) -> int:
    """Return how many events are in *slices*."""
    return sum(part.high - part.low for part in slices)


def slices_of(part: Slice, mask: Sequence[bool]) -> Iterator[Slice]:
    """Yield the stretches of *part* whose entries in *mask* are true; it has one an event."""
    low = part.low
    for is_kept, group in groupby(mask):
        high = low + sum(1 for _ in group)
        if is_kept:
            yield part._replace(low=low, high=high)
        low = high


def read(sources: Sequence[Source], marks: Mapping[str, Mark], limits: Limits) -> Bundle:
    """Read from each of *sources* in turn until there is enough for a batch.

    At least one event if there is one, even if it alone is larger than the limit. All that grew get
    a share of both limits, as far as there is one for each: who calls has another one come first
    each time.

    Raises:
        OSError: A disk refused to read; the text says where.

    """
    spans: dict[str, Span] = {}
    found: dict[str, list[Slice]] = {}
    bytes_left, events_left = limits.bytes_max, limits.events_max
    grown = [source for source in sources if source.end > marks[source.name].position]
    step_left = limits.step_bytes or sys.maxsize
    piece = max(step_left // max(len(grown), 1), 1)
    for index, source in enumerate(grown):
        if events_left <= 0 or step_left <= 0 or (bytes_left <= 0 and found):
            break
        mark = marks[source.name]
        share = max(bytes_left // (len(grown) - index), 1)
        events_share = max(events_left // (len(grown) - index), 1)
        chunk = source.read(mark.position, bytes_max=min(share, piece))
        step_left -= chunk.end - chunk.start
        end = Mark(chunk.end)
        for frame in chunk.frames:
            low = mark.skip if frame.position == mark.position else 0
            room = min(events_share, _fitting(frame, low, share, is_first=not found))
            high = min(frame.events, low + room)
            if high > low:
                part = Slice(source.id, frame, low, high)
                found.setdefault(source.name, []).append(part)
                events, size = high - low, _size(part)
                events_left, events_share = events_left - events, events_share - events
                bytes_left, share = bytes_left - size, share - size
            if high < frame.events:
                end = Mark(frame.position, high)
                break
        # The batch's id is made of what moves: when it is read again, that is all that is known.
        if end != mark:
            spans[source.name] = Span(source.id, mark, end)
    # By name, as `read_again` has them.
    slices = [part for name in sorted(found) for part in found[name]]
    return Bundle(spans, slices, count(slices))


class Oldest(NamedTuple):
    """When an event was received, and how many bytes those beside it take; 0 if not known."""

    received_ms: int
    event_bytes: float


def oldest(sources: Sequence[Source], marks: Mapping[str, Mark]) -> Oldest:
    """Return what is known of the oldest event behind *marks*.

    Raises:
        OSError: A disk refused to read.

    """
    known: list[Oldest] = []
    for source in sources:
        position = marks[source.name].position
        if source.end > position:
            frames = source.read(position, bytes_max=1).frames[:1]
            known += [
                Oldest(frame.runs[0].received_ms, frame.size / frame.events)
                for frame in frames
                if frame.runs
            ]
    dated = [found for found in known if found.received_ms]
    return min(dated or known, default=Oldest(0, 0.0))


def read_again(sources: Mapping[str, Source], spans: Mapping[str, Span]) -> Bundle:
    """Read what *spans* say, as it was read when they were written down.

    What a journal does not hold any more is left out; so is a journal that is another by now.

    Raises:
        OSError: A disk refused to read; the text says where.

    """
    slices: list[Slice] = []
    for name, (journal_id, start, end) in sorted(spans.items()):
        source = sources.get(name)
        if source is None or source.id != journal_id or start == end:
            continue
        position = start.position
        while position < end.position:
            chunk = source.read(position, bytes_max=end.position - position, end=end.position)
            for frame in chunk.frames:
                low = start.skip if frame.position == start.position else 0
                slices.append(Slice(journal_id, frame, low, frame.events))
            if chunk.end <= position:
                break
            position = chunk.end
        if end.skip:
            for frame in source.read(end.position, bytes_max=1).frames[:1]:
                if frame.position == end.position:
                    low = start.skip if frame.position == start.position else 0
                    slices.append(Slice(journal_id, frame, low, min(end.skip, frame.events)))
    slices = [part for part in slices if part.high > part.low]
    return Bundle(spans, slices, count(slices))


def planned_ms(batch_id: str) -> int:
    """Return when `Bundle.batch_id` made this id, in ms since 1970; 0 for one of another making."""
    time, dash, _digits = batch_id.partition("-")
    try:
        return int(time, 16) if dash and len(time) == TIME_CHARS else 0
    except ValueError:
        return 0


def batch_of(batch_id: str, slices: Sequence[Slice], ends: Ends | None = None) -> Batch:
    """Return the events of *slices* for a sink."""
    return Batch(
        batch_id,
        [content_of(part) for part in slices],
        count(slices),
        lambda: [fact for part in slices for fact in facts_of(part)],
        ends,
    )


def checked(placement: Placement) -> Placement:
    """Return *placement* if there is room for it.

    Raises:
        SinkMisconfigured: It is too large.

    """
    size = len(orjson.dumps(placement))
    if size > PLACEMENT_BYTES_MAX:
        raise SinkMisconfigured(
            f"its placement takes {size} bytes, the limit is {PLACEMENT_BYTES_MAX}"
        )
    return placement


def facts_of(part: Slice) -> list[Facts]:
    """Return the facts of each event of *part*."""
    return each(part.frame.runs)[part.low : part.high]


def offsets(frame: Stored) -> list[int]:
    """Return where each line of *frame* begins in its payload, and where the last one ends."""
    lengths = chain.from_iterable(run.lengths for run in frame.runs)
    return list(accumulate(lengths, initial=0))


def part_of(batch: Batch, ranges: Ranges, ends: Ends) -> Batch:
    """Return the events of *batch* with these numbers as a batch of its own, with these *ends*."""
    lines = batch.lines()
    numbers = [number for low, high in ranges for number in range(low, high)]
    return Batch(
        f"{batch.id}-{_digest(ranges)[:PART_ID_CHARS]}",
        [lines[number] for number in numbers],
        len(numbers),
        lambda: [batch.facts[number] for number in numbers],
        ends,
    )


def content_of(part: Slice) -> Lines:
    """Return the lines of *part*."""
    if part.low == 0 and part.high == part.frame.events:
        return part.frame.payload
    starts = offsets(part.frame)
    return part.frame.payload[starts[part.low] : starts[part.high]]


def _size(part: Slice) -> int:
    return len(content_of(part))


def _fitting(frame: Stored, low: int, size: int, *, is_first: bool) -> int:
    """Return how many events of *frame* from *low* on take no more than *size* bytes."""
    if low == 0 and len(frame.payload) <= size:
        return frame.events
    starts = offsets(frame)
    fitting = sum(1 for end in starts[low + 1 :] if end - starts[low] <= size)
    return max(fitting, 1) if is_first else fitting


def _digest(value: object) -> str:
    return hashlib.sha256(orjson.dumps(value)).hexdigest()[:ID_CHARS]
