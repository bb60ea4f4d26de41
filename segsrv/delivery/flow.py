"""The way to a sink that has a `Writer`: one visit to a thread a batch, and few syncs.

Reading, picking and writing of a batch are one piece of work in the sink's thread. The cursor is
saved, and what was written before it synced, once in a while; see `Writer` for what happens after a
crash.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

from segsrv.delivery import bundle as bundles
from segsrv.delivery.attempts import Attempts
from segsrv.delivery.bundle import Bundle, Filter, Limits, Slice, content_of
from segsrv.delivery.cursor import Cursor, Mark
from segsrv.delivery.inheritance import Inheritance
from segsrv.delivery.judging import Judge
from segsrv.delivery.resuming import pass_over
from segsrv.delivery.source import Source
from segsrv.delivery.standing import ShipperStats, Standing
from segsrv.errors import SinkUnavailable
from segsrv.sinks.base import Placement, Writer

T = TypeVar("T")
LAST_SYNC_S = 2.0


class Stepped(NamedTuple):
    """What one batch came to; without a bundle, nothing was sent and the place is to be saved."""

    bundle: Bundle | None
    placement: Placement
    events: int = 0
    filtered: int = 0


class Flow:
    """Feeds one writer; belongs to the shipper's loop.

    *picks* and *judge* are asked in the thread, and *note_read* is told there what is about to be
    sent.
    """

    def __init__(
        self,
        writer: Writer,
        standing: Standing,
        attempts: Attempts,
        limits: Limits,
        picks: Filter,
        judge: Judge | None,
        note_read: Callable[[Bundle], None],
    ) -> None:
        self._writer = writer
        self._standing = standing
        self._attempts = attempts
        self._limits = limits
        self.picks = picks
        self._judge = judge
        self._note_read = note_read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segsrv-flow")
        # The look for the place, which may take longer than a call: it is not begun anew then.
        self._finding: asyncio.Future[tuple[dict[str, Mark], Placement]] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the writer is not where the shipper believes it is."""
        is_found = self._finding is None and self._writer.place == self._standing.placement
        return not is_found

    async def take_over(self, inherited: Inheritance) -> None:
        """Pass over what other writers' tails have, whose marks were inherited."""
        own = self._standing.placement
        for cursor in (*inherited.others, *inherited.shared):
            find = partial(self._find_place, cursor.spans.keys(), cursor.placement)
            # What is shared may be another process's by now, which reads it or even writes to it.
            is_shared = cursor in inherited.shared
            await self._attempts.until_taken(partial(find, is_shared=is_shared))
            # Their files are theirs.
            self._standing.placement = own

    async def deliver(
        self,
        sources: Sequence[Source],
        marks: Mapping[str, Mark],
        stats: ShipperStats,
        save: Callable[[], Awaitable[None]],
    ) -> bool:
        """Send one batch, and *save* the cursor once in a while; return whether it left something.

        *sources* are read in this order.
        """
        standing = self._standing
        lag_bytes, done = standing.lag_bytes, await self._step(sources, marks)
        standing.placement = done.placement
        if done.bundle is None:
            # Neither slot may speak of what lies before.
            for _slot in range(2):
                await save()
            return True
        standing.advance(done.bundle)
        stats.batches += bool(done.events)
        stats.events += done.events
        stats.filtered_events += done.filtered
        is_large = standing.unsaved_bytes > self._limits.unsaved_bytes_max
        if is_large or standing.is_due or (self._judge is not None and self._judge.is_due):
            await save()
        return done.bundle.events >= self._limits.events_max or 0 < done.bundle.size < lag_bytes

    async def secure(self) -> None:
        """Make safe what was sent, so that the cursor may say so."""

        async def attempt() -> None:
            if self.is_lost:
                await self._find_own_place()
            await self._run(self._writer.sync)

        await self._attempts.until_taken(attempt)

    async def settle(self, older: Cursor | None) -> None:
        """Take note of what both slots of the cursor's file say."""
        if older is not None:
            await self._run(partial(self._writer.settled, older.placement))

    async def give_up(self, resending: Inheritance | None) -> None:
        """Have nothing behind the cursor that is about to be saved, whatever the sink does.

        What it has there already goes before anything else is sent.
        """
        # It looks for a place that counts no more, and what it finds is cut.
        self._finding = None
        try:
            async with asyncio.timeout(LAST_SYNC_S):
                await self._run(self._writer.sync)
        except (TimeoutError, OSError, SinkUnavailable):
            self._standing.rewind()
        standing, newest = self._standing, self._standing.file.newest
        standing.placement = {**standing.placement, "cut": True}
        if newest is not None and newest.is_sending:
            # What an earlier release had in hand goes as well.
            standing.placement["bytes"] = 0
        if resending is not None:
            resending.sending.clear()

    async def close(self) -> None:
        """End the thread, when it is through with what it does."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def _step(self, sources: Sequence[Source], marks: Mapping[str, Mark]) -> Stepped:
        standing = self._standing

        async def attempt() -> Stepped:
            if self.is_lost:
                await self._find_own_place()
            known = {name: standing.mark(standing.sources[name]) for name in marks}
            return await self._run(partial(self._send, sources, known, standing.placement))

        return await self._attempts.until_taken(attempt)

    async def _find_own_place(self) -> None:
        if is_suspect := self._writer.is_suspect:
            self._standing.rewind()
        standing = self._standing
        await self._find_place(standing.sources.keys(), standing.placement, is_rewound=is_suspect)

    async def _find_place(
        self,
        names: Container[str],
        last: Placement,
        *,
        is_rewound: bool = True,
        is_shared: bool = False,
    ) -> None:
        standing = self._standing
        sources = [
            source for source in standing.sources.values() if source.id and source.name in names
        ]
        marks = {source.name: standing.mark(source) for source in sources}
        if self._finding is None:
            find = partial(
                self._resume, sources, marks, last, is_rewound=is_rewound, is_shared=is_shared
            )
            self._finding = asyncio.get_running_loop().run_in_executor(self._thread, find)
        finding = self._finding
        await asyncio.wait([finding])
        self._finding = None
        moved, placement = finding.result()
        standing.move({name: mark for name, mark in moved.items() if mark != marks[name]})
        standing.placement = placement
        standing.is_unsaved = True

    def _resume(
        self,
        sources: Sequence[Source],
        marks: Mapping[str, Mark],
        last: Placement,
        *,
        is_rewound: bool,
        is_shared: bool,
    ) -> tuple[dict[str, Mark], Placement]:
        writer = self._writer
        if writer.is_suspect and not is_rewound:
            # A call that had been given up has failed just now.
            raise SinkUnavailable("a sync failed")
        with contextlib.closing(writer.tail(last, is_shared=is_shared)) as tail:
            try:
                moved = pass_over(tail, sources, marks, self._pick)
            except BaseException:
                writer.is_suspect = True
                raise
            return moved, writer.go_on(tail)

    def _send(
        self, sources: Sequence[Source], marks: Mapping[str, Mark], placement: Placement
    ) -> Stepped:
        bundle = bundles.read(sources, marks, self._limits)
        self._note_read(bundle)
        picks = self.picks
        passing = picks.pick(bundle.slices) if picks else bundle.slices
        slices = self._judge.pick(passing) if self._judge and passing else passing
        if slices:
            parts = [content_of(part) for part in slices]
            placement, is_written = self._writer.append(parts, placement)
            if not is_written:
                return Stepped(None, placement)
        filtered = bundle.events - bundles.count(passing) if picks else 0
        return Stepped(bundle, placement, bundles.count(slices), filtered)

    def _pick(self, slices: Sequence[Slice]) -> Sequence[Slice]:
        picks = self.picks
        passing = picks.pick(slices) if picks else slices
        return self._judge.pick(passing) if self._judge and passing else passing

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
