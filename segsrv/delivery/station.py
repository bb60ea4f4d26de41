"""The journal of one process and, unless a process of its own delivers, the way to the sinks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from segsrv.board import Board
from segsrv.delivery import journals
from segsrv.delivery.delivery import Delivery
from segsrv.delivery.loop_thread import LoopThread
from segsrv.delivery.shipper import Shipper
from segsrv.delivery.source import LeftSource, OwnSource
from segsrv.errors import JournalFault
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.group_commit import GroupCommit
from segsrv.settings import Key, Settings
from segsrv.sinks.registry import build, resolve

logger = logging.getLogger(__name__)

RELEASE_INTERVAL_S = 0.2


class Station:
    """Opens and closes a worker's journal, and has it delivered.

    With *board*, another process delivers: what is committed is said there, and what may be
    deleted read. Without, it is done here, on a loop of its own in a thread, together with what
    workers left behind that are no more: worker k takes on the journals whose number modulo the
    count of workers is k.
    """

    def __init__(self, settings: Settings, *, worker: int, board: Board | None = None) -> None:
        self.settings = settings
        self.worker = worker
        self.commit: GroupCommit | None = None
        self.delivery: Delivery | None = None
        self.on_closed: Callable[[], None] = lambda: None
        self._board = board
        # Mounted in several processes, each has a delivery of its own.
        is_alone = board is not None or settings.workers == 1
        self._owner = "" if is_alone else journals.journal_name(worker)
        self._left: list[LeftSource] = []
        self._lock_fd = -1
        self._thread: LoopThread | None = None
        self._releasing: asyncio.Task[None] | None = None

    @property
    def shippers(self) -> list[Shipper]:
        """Those of this process."""
        return self.delivery.shippers if self.delivery is not None else []

    def use_keys(self, keys: Sequence[Key]) -> None:
        """Let sinks get what *keys* say, where they are fed from here."""
        if self.delivery is not None:
            self.delivery.use_keys(keys)

    async def start(self) -> None:
        """Open the journals and begin to deliver.

        Raises:
            DataDirInUse: Another process has one of them open.
            JournalFault: A directory or file can't be made, read or written.
            SegsrvError: A sink's URL is wrong.

        """
        try:
            await _to_its_end(self._open())
            assert self.commit is not None
            await self.commit.look()
            if self._board is None:
                await self._start_delivery()
            else:
                sinks = await asyncio.to_thread(resolve, self.settings)
                self._follow(self._board, [sink.name for sink in sinks])
        except OSError as error:
            await self.stop()
            raise JournalFault(f"the data directory can't be used: {error}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Commit what is queued, deliver for the grace period, and let go of the data directory.

        Also when it is cancelled: a shipper that outlived the lock would deliver beside the next
        server's.
        """
        await _to_its_end(self._stop())

    async def _open(self) -> None:
        settings = self.settings
        log = await asyncio.to_thread(journals.open_log, settings, self.worker)
        self.commit = GroupCommit(
            log,
            DeadLetters(
                settings.data_dir / "dead-letter",
                prefix=journals.journal_name(self.worker),
                bytes_max=settings.dead_letter_bytes_max,
                file_mode=int(settings.file_mode, 8),
            ),
            pending_bytes_max=settings.pending_bytes_max,
            journal_bytes_max=settings.journal_bytes_max,
            waits_for_disk=settings.durability != "memory",
        )
        position = await asyncio.to_thread(journals.delivered, settings, log, self._owner)
        await self.commit.release(position, retention_s=settings.journal_retention_s)
        if self._board is None:
            self._lock_fd, _path = await asyncio.to_thread(
                journals.take_delivery_lock, settings, is_shared=bool(self._owner)
            )
            workers = settings.workers
            for number in await asyncio.to_thread(journals.left_behind, settings):
                if number != self.worker and number % workers == self.worker % workers:
                    left = await asyncio.to_thread(journals.open_left, settings, number)
                    self._left.append(left)
        await asyncio.to_thread(journals.set_modes, settings)

    async def _start_delivery(self) -> None:
        commit, thread = self.commit, LoopThread("segsrv-delivery")
        assert commit is not None
        self._thread = thread
        settings = self.settings
        built = await asyncio.to_thread(
            lambda: build(settings, origin=journals.origin(settings, self._owner))
        )

        async def start() -> Delivery:
            own = OwnSource(
                journals.journal_name(self.worker),
                commit,
                retention_s=settings.journal_retention_s,
            )
            delivery = Delivery(
                settings, built, [own, *self._left], owner=self._owner, guard=commit.log.check_lock
            )
            delivery.on_closed = self.on_closed
            await delivery.start()
            return delivery

        delivery = self.delivery = await thread.call(start())

        def wake() -> None:
            if delivery.is_waiting:
                thread.post(delivery.wake)

        commit.on_commit = wake
        commit.refusal = lambda: delivery.refusal

    def _follow(self, board: Board, names: list[str]) -> None:
        """Say on the board what is committed, and delete what it says may go."""
        commit, slot = self.commit, board.worker(self.worker)
        assert commit is not None
        log = commit.log
        slot.open(log.id, first=log.first, end=log.end)
        board.wake()

        def publish() -> None:
            slot.end = log.end
            board.wake()

        def refusal() -> str | None:
            number = board.sinks_full
            return (
                f"the sink {names[number - 1]} lags more than its lag_bytes_max" if number else None
            )

        async def release() -> None:
            released = 0
            while True:
                await asyncio.sleep(RELEASE_INTERVAL_S)
                if (position := slot.released(log.id)) > released:
                    released = position
                    await commit.release(position, retention_s=self.settings.journal_retention_s)
                    slot.first = log.first

        commit.on_commit = publish
        commit.refusal = refusal
        self._releasing = asyncio.create_task(release(), name="segsrv-release")
        self._releasing.add_done_callback(_report_death)

    async def _stop(self) -> None:
        try:
            if self.commit is not None:
                await self.commit.finish()
        finally:
            try:
                await self._end_delivery()
            finally:
                await self._close_journals()

    async def _end_delivery(self) -> None:
        if self._releasing is not None:
            self._releasing.cancel()
            await asyncio.wait([self._releasing])
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            if self.delivery is not None:
                await thread.call(self.delivery.stop(self.settings.shutdown_grace_s))
        finally:
            await thread.close()

    async def _close_journals(self) -> None:
        for left in self._left:
            await left.close()
        try:
            if self.commit is not None:
                await self.commit.close()
        finally:
            fd, self._lock_fd = self._lock_fd, -1
            if fd >= 0:
                os.close(fd)


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("journal: nothing is deleted any more", exc_info=error)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Run *work* to its end, also when the caller is cancelled meanwhile; that is raised then."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("delivery: failed while it was cancelled: %s", error)
        raise
