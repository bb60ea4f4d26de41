"""Ships one journal to one sink: read from the cursor, note the range, send, retry, advance."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import orjson

from segsrv.errors import SinkRejected, SinkUnavailable, Unavailable
from segsrv.files import FILE_MODE
from segsrv.journal import cursor as cursors
from segsrv.journal import facts
from segsrv.journal.cursor import Cursor
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.log import SegmentLog
from segsrv.journal.reader import Chunk
from segsrv.sinks.base import Batch, Sink

logger = logging.getLogger(__name__)

RETRY_S_MIN = 0.2

T = TypeVar("T")


@dataclass(slots=True)
class ShipperStats:
    """Plain counters of one shipper."""

    batches: int = 0
    events: int = 0
    retries: int = 0
    rejected_events: int = 0


class Shipper:
    """Delivers at least once, in order, with the same batch boundaries after a restart.

    Belongs to one event loop. `wake` is called there when the journal has grown and `is_waiting`;
    `on_advance` is awaited when `saved_position` has grown, for the journal to let go of what every
    sink has.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        log: SegmentLog,
        dead_letters: DeadLetters,
        *,
        cursor_path: Path,
        flush_interval_s: float,
        flush_bytes_max: int,
        retry_s_max: float,
        file_mode: int = FILE_MODE,
    ) -> None:
        self.name = name
        self.sink = sink
        self.stats = ShipperStats()
        self.is_failing = False
        self.is_waiting = False
        self.on_advance: Callable[[], Awaitable[None]] | None = None
        self._log = log
        self._dead_letters = dead_letters
        self._cursor_path = cursor_path
        self._flush_interval_s = flush_interval_s
        self._flush_bytes_max = flush_bytes_max
        self._retry_s_max = retry_s_max
        self._file_mode = file_mode
        self._cursor = cursors.load(cursor_path) or Cursor(log.first, log.first)
        # What the journal may let go of: a restart reads from here on.
        self.saved_position = self._cursor.start
        self._grown = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        """All below it is delivered."""
        return self._cursor.start

    @property
    def lag_bytes(self) -> int:
        """Bytes of the journal that are not delivered yet."""
        return max(self._log.end - self.position, 0)

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
        await self.sink.close()
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error

    async def _run(self) -> None:
        await self._until_taken(self.sink.open)
        if self._cursor.end > self._cursor.start:
            chunk = await self._read(self._cursor.start, end=self._cursor.end)
            await self._deliver(chunk)
        while True:
            await self._linger()
            if self._log.end <= self.position:
                if self._stopping.is_set():
                    return
                continue
            chunk = await self._read(self.position)
            if not chunk.events:
                await self._save(Cursor(chunk.end, chunk.end, self._cursor.placement))
                continue
            await self._plan(chunk)
            await self._deliver(chunk)

    async def _linger(self) -> None:
        """Wait until there is something, then a little longer for a fuller batch."""
        # Said before the look at the journal: a commit in another thread then either is seen here,
        # or sees that it has to wake this one.
        self._grown.clear()
        self.is_waiting = True
        if self.lag_bytes == 0 and not self._stopping.is_set():
            await self._grown.wait()
        self.is_waiting = False
        if self.lag_bytes < self._flush_bytes_max:
            # A stop ends this wait at once: the grace period is for sending.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._flush_interval_s)

    async def _plan(self, chunk: Chunk) -> None:
        """Write down what is about to be sent where, before any of it is."""
        batch = self._batch(chunk)
        placement = await self._until_taken(lambda: self.sink.plan(batch, self._cursor.placement))
        await self._save(Cursor(chunk.start, chunk.end, placement))

    async def _deliver(self, chunk: Chunk) -> None:
        placement = self._cursor.placement
        batch = self._batch(chunk)
        try:
            await self._until_taken(lambda: self.sink.send(batch, placement))
        except SinkRejected as error:
            await self._bury(batch, error)
        else:
            self.stats.batches += 1
            self.stats.events += batch.events
        self._cursor = Cursor(chunk.end, chunk.end, placement)
        if self.lag_bytes == 0:
            await self._save(self._cursor)
        # Else the next batch is planned at once, and saves with its own range that this one is
        # done. Sent again after a crash in between, it has the same placement.

    def _batch(self, chunk: Chunk) -> Batch:
        return Batch(
            f"{self.name}-{chunk.start:020d}",
            [chunk.lines],
            chunk.events,
            lambda: list(facts.each(list(chunk.runs))),
        )

    async def _until_taken(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it works, with capped exponential backoff and jitter, for ever."""
        delay_s = RETRY_S_MIN
        while True:
            try:
                result = await attempt()
            except SinkRejected:
                raise
            except (SinkUnavailable, Unavailable, OSError) as error:
                self._failed(error)
            except Exception as error:
                # A driver's surprise must not end delivery: the batch is in the journal.
                logger.exception("sink: unexpected error sink=%s", self.name)
                self._failed(error)
            else:
                if self.is_failing:
                    self.is_failing = False
                    logger.warning("sink: works again sink=%s", self.name)
                return result
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311
            delay_s = min(delay_s * 2, self._retry_s_max)

    def _report_death(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.is_failing = True
            logger.error("sink: delivery ended by a fault sink=%s", self.name, exc_info=error)

    def _failed(self, error: Exception) -> None:
        self.stats.retries += 1
        if not self.is_failing:
            self.is_failing = True
            logger.error("sink: unavailable, will retry sink=%s error=%s", self.name, error)

    async def _bury(self, batch: Batch, error: SinkRejected) -> None:
        logger.error("sink: rejected sink=%s events=%d error=%s", self.name, batch.events, error)
        letters = [
            # The line end by itself makes a copy, without the spare room of what orjson returns.
            orjson.dumps(
                {
                    "reason": "sink_rejected",
                    "message": str(error),
                    "sink": self.name,
                    "item": orjson.Fragment(line[:-1]),
                }
            )
            + b"\n"
            for line in batch.lines()
        ]
        self.stats.rejected_events += len(letters)
        await self._until_taken(lambda: asyncio.to_thread(self._dead_letters.append, letters))

    async def _read(self, position: int, *, end: int | None = None) -> Chunk:
        bytes_max = self._flush_bytes_max if end is None else end - position
        return await self._until_taken(
            lambda: asyncio.to_thread(self._log.read, position, bytes_max=bytes_max, end=end)
        )

    async def _save(self, cursor: Cursor) -> None:
        await self._until_taken(lambda: asyncio.to_thread(self._put, cursor))
        has_advanced = cursor.start > self.saved_position
        self._cursor = cursor
        self.saved_position = cursor.start
        if has_advanced and self.on_advance is not None:
            try:
                await self.on_advance()
            except Exception:
                # The batch is delivered; what the journal then does can't stop the next one.
                logger.exception("sink: the journal was not released sink=%s", self.name)

    def _put(self, cursor: Cursor) -> None:
        # In a data directory that was removed and made again the cursor may be another server's.
        self._log.check_lock()
        cursors.save(self._cursor_path, cursor, self._file_mode)
