"""Ships all journals to one sink: read from the cursor, note the range, send, advance."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from segsrv.delivery import bundle as bundles
from segsrv.delivery.attempts import Attempts, State
from segsrv.delivery.batching import Batching
from segsrv.delivery.believing import IsOurs, believed
from segsrv.delivery.bundle import Bundle, Filter, Limits
from segsrv.delivery.cursor import NOTHING, Cursor, CursorFile, InHand, Mark, Ranges, Span
from segsrv.delivery.disk import DiskThread
from segsrv.delivery.flow import Flow
from segsrv.delivery.inheritance import ANY_ID, Inheritance, in_hand
from segsrv.delivery.judging import Judge
from segsrv.delivery.rejects import Rejects
from segsrv.delivery.source import Source
from segsrv.delivery.spool import Spool
from segsrv.delivery.standing import SETTLE_S, ShipperStats, Standing
from segsrv.delivery.transforming import Transforming
from segsrv.sinks.base import Batch, Delivered, Placement, Sink, Writer

logger = logging.getLogger(__name__)

SALT_BYTES = 8
SETTLE_BYTES_MAX = 256 << 10
"""When the cursor's other slot gets to say that all is delivered, so that the journals let go of
it: SETTLE_S after the last batch, or at once if it is more."""
POLL_S = 0.25
"""A wake-up from another process could be missed for so long."""
CLOSE_TIMEOUT_S = 10.0


class Shipper:
    """Delivers at least once, in each journal's order, with the same batches after a restart.

    Belongs to one event loop. `wake` is called there when a journal has grown; `on_advance` is
    called when the cursor on disk has moved, for the journals to let go of what every sink has;
    `on_waiting` is called when `is_waiting` has changed, before the shipper looks for more.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        sources: Sequence[Source],
        *,
        cursor: CursorFile,
        rejects: Rejects,
        attempts: Attempts,
        limits: Limits,
        picks: Filter | None = None,
        judge: Judge | None = None,
        transforming: Transforming | None = None,
        spool: Spool | None = None,
        inherit: Callable[[Cursor | None], Inheritance],
        is_ours: IsOurs = lambda _name, _position, _time_ms: False,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.sink, self.stats = name, sink, ShipperStats()
        self.attempts, self.rejects = attempts, rejects
        # What is left of a full batch has waited for its interval.
        self.is_waiting = self._is_behind = False
        self.on_waiting: Callable[[], None] = lambda: None
        self.on_advance: Callable[[], object] = lambda: None
        self.standing = Standing(name, sources, cursor, guard)
        writer: Writer | None = getattr(sink, "writer", None)
        self.transforming = transforming
        self._limits = limits = limits if writer is None or transforming else limits.in_steps()
        self.judge = judge
        self._inherit, self._is_ours = inherit, is_ours
        self._salt, self._has_asked = secrets.token_hex(SALT_BYTES), False
        self._oldest_ms, self._turn, self._flow = 0, 0, None
        self._resending: Inheritance | None = None
        if writer is not None:
            how = (picks or Filter(), judge, self._note_read)
            self._flow = Flow(writer, self.standing, attempts, limits, *how)
        self._disk = disk = DiskThread(name)
        chain = (picks or Filter(), judge, transforming, spool)
        self._batching = Batching(self.standing, disk, self.stats, chain)
        self._all_attempts = [attempts, disk.attempts]
        self._all_attempts += [transforming.attempts] if transforming else []
        self._grown, self._stopping = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_failing(self) -> bool:
        return self.state != "ok"

    @property
    def state(self) -> State:
        """How the sink is; `retrying` also while delivery's own disk or transformations refuse."""
        return next((each.state for each in self._all_attempts if each.state != "ok"), "ok")

    @property
    def message(self) -> str:
        return next((each.message for each in self._all_attempts if each.message), "")

    @property
    def failures(self) -> int:
        """Calls that failed, to the sink, to the disk and to transformations."""
        return sum(each.failures for each in self._all_attempts)

    @property
    def lag_bytes(self) -> int:
        """Bytes of the journals that are not delivered yet."""
        return self.standing.lag_bytes

    @property
    def lag_s(self) -> float:
        """How old the oldest event is that is being delivered; 0 if there is none."""
        return max(time.time() - self._oldest_ms / 1_000, 0.0) if self._oldest_ms else 0.0

    def pick_by(self, picks: Filter) -> None:
        """Pick the events of further batches by *picks*, which another thread may replace."""
        self._batching.picks = picks
        if self._flow is not None:
            self._flow.picks = picks

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"segsrv-{self.name}")
        self._task.add_done_callback(self._report_death)

    def wake(self) -> None:
        self._grown.set()

    async def stop(self, *, grace_s: float) -> None:
        """Deliver for at most *grace_s* more; the rest goes out at the next start."""
        self._stopping.set()
        self._grown.set()
        if self._task is None:
            return
        done, _pending = await asyncio.wait([self._task], timeout=grace_s)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                if self._flow is not None:
                    await self._flow.close()
                await self.sink.close()
        await self._disk.close()
        self.standing.file.close()
        await self._batching.close()
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error

    async def set_aside(self, move: Callable[[Mapping[str, Mark]], dict[str, Mark]]) -> None:
        """Go on behind what *move* has put elsewhere, and leave the call in hand unfinished.

        *move* gets the mark in each journal and returns the new ones; it runs in a thread. When it
        raises OSError, so does this, and delivery goes on as before.
        """
        standing = self.standing
        if not standing.is_known:
            return
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        moved: dict[str, Mark] = {}
        marks = standing.marks()
        try:
            if self._flow is not None:
                # Saved before anything is set aside: after a crash in between, what is behind the
                # cursor is not in the sink as well.
                await self._flow.give_up(self._resending)
                marks = standing.marks()
                await self._disk.once(partial(standing.save, standing.cursor()))
                standing.saved()
            # Once: the sink may be slow and not dead, and gets nothing meanwhile.
            moved = await self._disk.once(partial(move, marks))
            standing.move(moved)
            if moved:
                # It is in what was set aside, too.
                self._resending = None
                self._oldest_ms = 0
                for _slot in range(2):
                    await self._write_down()
        finally:
            if not moved and self._resending is None:
                known = standing.known(marks)
                self._resending = in_hand(standing.file.newest, known)
            self.start()

    async def _run(self) -> None:
        if not self.standing.is_known:
            await self._load()
        await self.attempts.until_taken(self._open)
        if not self._has_asked:
            await self._take_delivered()
            self._has_asked = True
        if self._resending is not None:
            await self._resend(self._resending)
        if self.transforming is not None and self._flow is not None:
            await self._leave(self._flow)
        while await self._linger():
            await self._step()

    async def _load(self) -> None:
        """Find out where this sink stands."""
        standing = self.standing
        cursor = await self._disk.until_done(standing.file.load)
        inherited = await self._disk.until_done(lambda: self._inherit(cursor))
        if self.judge is not None:
            await self._disk.until_done(self.judge.open)
        if cursor is not None:
            standing.placement = cursor.placement
        await self.standing.until_open(inherited.marks.keys() & standing.sources.keys())
        standing.take_over(inherited.marks)
        self._resending = inherited

    async def _open(self) -> None:
        if self.lag_bytes and not self._oldest_ms:
            # Of a sink that is down from the start nothing else says how long events have waited.
            sources, marks = self._readable()
            with contextlib.suppress(OSError):
                oldest = await self._disk.once(lambda: bundles.oldest(sources, marks))
                self._oldest_ms = oldest.received_ms
                self.standing.note_size(oldest.event_bytes)
        await self.sink.open()

    async def _take_delivered(self) -> None:
        """Go on behind what the sink says it has, where the cursor is not as far."""
        ask = getattr(self.sink, "delivered", None)
        if ask is None:
            return
        # Of a journal that opens later, nothing would be known.
        await self.standing.until_open(self.standing.sources)
        delivered: Delivered = await self.attempts.until_taken(ask)
        moved = await self._disk.until_done(
            lambda: believed(self.standing, delivered, self._is_ours),
        )
        if moved:
            logger.info("sink: goes on behind what it has sink=%s", self.name)
            self.standing.move(moved)
            self.standing.is_unsaved = True
        if self._resending is not None:
            self._resending.go_on(self.standing.known(moved))

    def _readable(self) -> tuple[list[Source], dict[str, Mark]]:
        """Return the journals that are open, another one first each time, and the marks."""
        marks = self.standing.marks()
        names = list(marks)
        # Where a batch has no room for all of them, each comes first once.
        self._turn += 1
        first = self._turn % max(len(names), 1)
        return [self.standing.sources[name] for name in names[first:] + names[:first]], marks

    async def _resend(self, inherited: Inheritance) -> None:
        """Send again what was being sent when delivery ended, as it was."""
        sources = self.standing.sources
        if self._flow is not None:
            # What another journal had sent would be taken for what is nobody's.
            await self.standing.until_open(sources)
        for sending in inherited.sending:
            spans = {
                name: span._replace(journal_id=sources[name].id)
                if span.journal_id == ANY_ID
                else span
                for name, span in sending.spans.items()
                if span.end != span.start and name in sources
            }
            bundle = await self._disk.until_done(partial(bundles.read_again, sources, spans))
            in_hand = sending.in_hand
            if batch := await self._batching.again(bundle, in_hand.batch_id or bundle.batch_id()):
                # Where the filter was changed, the numbers are those of other events.
                parts = in_hand.parts if in_hand.events == batch.events else ()
                await self._send(bundle, batch, sending.placement, parts)
            self.standing.advance(bundle)
        self.standing.keep()
        if self._flow is not None:
            await self._flow.take_over(inherited)
        await self._save()
        await self._disk.until_done(inherited.forget)
        self._resending = None

    async def _leave(self, flow: Flow) -> None:
        """Go on behind what a writer has; from then on batches are planned, and kept."""
        await self.standing.until_open(self.standing.sources)
        for _slot in range(2):
            await self._save()
        self._flow = None
        await flow.close()

    async def _linger(self) -> bool:
        """Wait until there is something, then a little longer for a fuller batch; False to end."""
        settled_at = time.monotonic() + SETTLE_S
        while True:
            # Said before the look at the journals: a commit elsewhere then either is seen here, or
            # sees that it has to wake this one.
            self._grown.clear()
            self.is_waiting = True
            self.on_waiting()
            if self.lag_bytes:
                break
            self._oldest_ms = 0
            is_stopping, standing = self._stopping.is_set(), self.standing
            is_due = self._flow is None or is_stopping or standing.is_due
            if standing.is_unsaved and is_due:
                await self._save()
            if self._flow is None:
                is_large = standing.unreleased_bytes > SETTLE_BYTES_MAX
                is_due = not is_stopping and (is_large or time.monotonic() >= settled_at)
            if is_due and not standing.file.is_settled:
                await self._save()
            if is_stopping:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._grown.wait(), POLL_S)
        self.is_waiting = False
        self.on_waiting()
        if self.lag_bytes < self._limits.enough_bytes and not self._is_behind:
            # A stop ends this wait at once: the grace period is for sending.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._limits.interval_s)
        return True

    async def _step(self) -> None:
        """Deliver one batch."""
        sources, marks = self._readable()
        if self._flow is not None:
            self._is_behind = await self._flow.deliver(sources, marks, self.stats, self._save)
            return
        limits = self._batching.limits(self._limits)
        bundle = await self._disk.until_done(lambda: bundles.read(sources, marks, limits))
        self._note_read(bundle)
        self._is_behind = bundle.events >= limits.events_max
        now_ms = time.time_ns() // 1_000_000
        batch = await self._batching.batch(bundle, bundle.batch_id(self._salt, now_ms))
        if batch is None:
            self.standing.advance(bundle)
            if self.standing.is_due or self._batching.is_transforming:
                # A filter may let nothing pass for long, and the journals should get smaller. What
                # a function dropped or failed at is not asked about again.
                await self._save()
            return
        placement = await self.attempts.until_taken(lambda: self._plan(batch))
        self.standing.placement = placement
        await self._save(bundle.spans, InHand(batch.id, batch.events))
        await self._send(bundle, batch, placement)
        self.standing.advance(bundle)
        # The next batch says in its own plan that this one is done. Sent again after a crash in
        # between, it has the same id and placement.
        if self.judge is not None and self.judge.is_due:
            await self._save()

    async def _plan(self, batch: Batch) -> Placement:
        return bundles.checked(await self.sink.plan(batch, self.standing.placement))

    async def _send(
        self, bundle: Bundle, batch: Batch, placement: Placement, parts: Sequence[Ranges] = ()
    ) -> None:
        self.stats.events += await self.rejects.send(
            batch,
            parts,
            starts=self.standing.ends(),
            send=lambda part: self.attempts.until_taken(
                lambda: self.sink.send(part, placement), may_reject=True
            ),
            on_disk=self._disk.until_done,
            keep=lambda todo: self._save(bundle.spans, InHand(batch.id, batch.events, todo)),
        )
        self.stats.batches += 1

    async def _save(
        self, sending: Mapping[str, Span] | None = None, in_hand: InHand = NOTHING
    ) -> None:
        """Put on disk where this sink stands, and what is about to be sent."""
        if self._flow is not None:
            await self._flow.secure()
        await self._write_down(sending, in_hand)
        if self._flow is not None:
            await self._flow.settle(self.standing.file.older)

    async def _write_down(
        self, sending: Mapping[str, Span] | None = None, in_hand: InHand = NOTHING
    ) -> None:
        cursor = self.standing.cursor(sending, in_hand)
        await self._disk.until_done(lambda: self._put(cursor))
        self.standing.saved()
        self.on_advance()

    def _put(self, cursor: Cursor) -> None:
        self.standing.save(cursor)
        if self.judge is not None and not cursor.is_sending:
            # What is being sent would be judged again after a crash.
            self.judge.settle()

    def _note_read(self, bundle: Bundle) -> None:
        self._oldest_ms = bundle.received_ms or self._oldest_ms
        self.standing.note_size(bundle.event_bytes)

    def _report_death(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.attempts.state, self.attempts.message = "retrying", f"ended by a fault: {error}"
            logger.error("sink: delivery ended by a fault sink=%s", self.name, exc_info=error)
