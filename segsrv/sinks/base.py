"""The one protocol of all sinks, and what they are given."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from segsrv.journal.facts import Facts

Placement = dict[str, Any]
"""What a sink needs to send the same batch again without a second effect; JSON, kept on disk."""
PLACEMENT_BYTES_MAX = 16 << 10

Lines = bytes | memoryview

Ends = Mapping[str, tuple[int, int]]
"""By the journal's id, the position of a frame, and how many of its events lie before the end."""


class Delivered(NamedTuple):
    """What a sink has stored last, as it says itself: a batch's id, and the ends that it had."""

    batch_id: str
    ends: Ends


class Batch:
    """Events for a sink: whole lines of NDJSON, in order, and what is known of each.

    `id` is the same whenever the same events are sent again, after a time-out or a crash, and
    belongs to no other batch: up to 100 characters of `A-Za-z0-9._-`. `parts` are pieces of NDJSON
    of at least one line each; they may be written one after the other as they are.

    `ends` says up to where each journal is delivered once this is stored, those included of which
    it has no events. A part of a batch that was split says the same as the batch before, but for
    the last one. It is empty in a replay.
    """

    def __init__(
        self,
        batch_id: str,
        parts: Sequence[Lines],
        events: int,
        load_facts: Callable[[], list[Facts]],
        ends: Ends | None = None,
    ) -> None:
        self.id = batch_id
        self.parts = tuple(parts)
        self.events = events
        self.ends = ends or {}
        self._load_facts = load_facts

    @cached_property
    def facts(self) -> list[Facts]:
        """One entry an event, in order; read only when a sink asks."""
        return self._load_facts()

    @cached_property
    def size(self) -> int:
        """Bytes of all lines."""
        return sum(map(len, self.parts))

    @cached_property
    def content(self) -> bytes:
        """All lines in one piece: a copy, unless there is one part of bytes."""
        return b"".join(self.parts)

    def lines(self) -> list[bytes]:
        """Return the lines one by one, each with its newline."""
        # Part by part, as `content` would be one more copy of all. `splitlines`, which looks for
        # other line ends too, takes seven times as long.
        return [line for part in self.parts for line in io.BytesIO(part)]


class Tail(Protocol):
    """What a sink has behind a placement, line by line; every call may raise OSError."""

    def matches(self, content: Lines) -> tuple[int, int]:
        """Return how many of the lines of *content* stand next, and how many bytes that is."""

    def line(self) -> bytes | None:
        """Return the line that stands next; None for the end, or what is no whole line."""

    def keep(self, size: int) -> None:
        """Pass over *size* bytes, lines that stand next."""

    def cut(self) -> None:
        """Take away all that follows."""

    def close(self) -> None:
        """Let go of what was opened."""


class Writer(Protocol):
    """Of a sink that can read what it has: delivery needs no word on disk for each batch.

    What was appended is safe once `sync` has returned; then delivery saves its cursor, which it
    does seldom. After a crash it compares what comes next with the `tail` behind the placement that
    was saved, and goes on behind what is there already. All calls block. They are made in one
    thread; whoever made one may have given it up, so `place` tells whether it is as it should be.
    """

    place: Placement | None
    """Where the next batch goes; None as long as that is not known."""
    is_suspect: bool
    """Whether a sync may have failed: all since the last good one is to be looked at again."""

    def tail(self, last: Placement, *, is_shared: bool = False) -> Tail:
        """Return what stands behind *last*, which is {} for a writer that begins.

        With `cut` in *last* nothing is left there: what was, is kept elsewhere. What `is_shared`
        is only read: another process may be at it.
        """

    def go_on(self, tail: Any) -> Placement:
        """Go on where *tail*, of `tail`, has come to, with all before it safe."""

    def append(self, parts: Sequence[Lines], last: Placement) -> tuple[Placement, bool]:
        """Write *parts*, whole lines, behind *last*; return where what follows goes, and True.

        With False nothing was written: what is returned is to be saved, and then given as *last*.
        """

    def sync(self) -> None:
        """Make all safe that was appended."""

    def settled(self, place: Placement) -> None:
        """Take note that nothing before *place* will be looked at again."""


class Sink(Protocol):
    """Takes batches, one at a time and in order.

    Delivery calls `plan`, puts what it returns on stable storage with the batch's range, and then
    calls `send` until it succeeds. After a crash it calls `send` again with the same events, the
    same `batch.id` and the same placement, so a sink that is idempotent for one of these stores
    every event once. A call that takes longer than the sink's time limit is cancelled, and what it
    did is unknown: it is made again, as after a crash.

    A sink may have `stats`, a dataclass of plain counters, which metrics then show.

    One that stores `batch.id` and `batch.ends` in the transaction that stores the events, in place
    of those before, may have `delivered`, which returns them. It is asked after the first `open`,
    so that delivery goes on behind what is stored even where its own cursor was lost.

    One that can read what it has may have `writer`, a `Writer`, which delivery then uses in place
    of `plan` and `send`; these are for commands, and for what an earlier release had in hand.

    When `send` raises SinkRejected, nothing of the batch may be stored. Delivery writes down how it
    splits the batch, and sends the parts, each under an id of its own, until what is refused is
    found and set aside. Of a batch and its parts, one is sent at a time until it is stored: a sink
    that knows the last id can't store any twice.
    """

    async def check(self) -> Sequence[str] | None:
        """Learn whether the sink could be opened, changing nothing; `segsrv check` asks.

        Returns what works but is not as it should be, a line each, with what stands at the head of
        other messages.

        Raises:
            SinkUnavailable: It could not; the text says why.

        """

    async def open(self) -> None:
        """Get ready; called before the first `plan`, and again after it failed.

        Raises:
            SinkUnavailable: Not now; it is called again later.
            SinkMisconfigured: Not as it is configured; it is called again, seldom.

        """

    async def plan(self, batch: Batch, last: Placement) -> Placement:
        """Say where *batch* will go, given the placement of the batch before it ({} for none).

        What is returned takes at most PLACEMENT_BYTES_MAX as JSON.
        """

    async def send(self, batch: Batch, placement: Placement) -> None:
        """Deliver *batch*; when this returns, the events are safe in the sink.

        Raises:
            SinkUnavailable: Not now; it is called again with the same arguments.
            SinkMisconfigured: Not as the sink is configured; it is called again, seldom.
            SinkRejected: Never these events; `indexes` names them where that is known.

        """

    async def close(self) -> None:
        """Give up what `open` took."""

    def describe(self) -> str:
        """Return one line for people, without secrets."""
