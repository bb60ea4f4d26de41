"""All journals of one process and the shippers that empty them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from segsrv.delivery.loop_thread import LoopThread
from segsrv.delivery.shipper import Shipper
from segsrv.errors import JournalFault
from segsrv.files import make_dir, obstacle, set_dir_mode
from segsrv.journal import cursor as cursors
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.group_commit import GroupCommit
from segsrv.journal.log import SegmentLog
from segsrv.settings import Settings
from segsrv.sinks import registry

logger = logging.getLogger(__name__)

FOLDERS = ("journal", "dead-letter", "events", "state")
"""What the data directory holds; it may itself be somebody else's folder."""


def journal_dir(settings: Settings) -> Path:
    """Return the folder of all workers' journals, which a server makes when it first starts."""
    return settings.data_dir / "journal"


class Station:
    """The process's own journal, those that nobody writes any more, and their way to the sinks.

    With fewer workers than before, worker k takes on the journals whose number modulo the count of
    workers is k, so that what they hold is still delivered. Blocking work runs in threads, and the
    shippers on a loop of their own, at their own pace.
    """

    def __init__(self, settings: Settings, *, worker: int) -> None:
        self.settings = settings
        self.worker = worker
        self.commit: GroupCommit | None = None
        self.journals: dict[int, GroupCommit] = {}
        self.shippers: list[Shipper] = []
        self._delivery: LoopThread | None = None
        self._file_mode = int(settings.file_mode, 8)

    async def start(self) -> None:
        """Open the journals and begin to deliver.

        Raises:
            DataDirInUse: Another process has one of them open.
            JournalFault: A directory or file can't be made, read or written.
            SegsrvError: A cursor can't be read, or a sink's URL is wrong.

        """
        try:
            for number in await asyncio.to_thread(self._journal_numbers):
                await _to_its_end(self._open(number))
            await asyncio.to_thread(self._set_modes)
            self.commit = self.journals[self.worker]
            await self.commit.look()
            self._delivery = LoopThread("segsrv-delivery")
            await self._delivery.call(self._start_shippers())
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
        delivery, self._delivery = self._delivery, None
        if delivery is None:
            return
        try:
            await delivery.call(self._stop_shippers(self.settings.shutdown_grace_s))
        finally:
            await delivery.close()

    async def _start_shippers(self) -> None:
        for shipper in self.shippers:
            shipper.start()

    async def _stop_shippers(self, grace_s: float) -> None:
        results = await asyncio.gather(
            *(shipper.stop(grace_s=grace_s) for shipper in self.shippers),
            return_exceptions=True,
        )
        for shipper, result in zip(self.shippers, results, strict=True):
            if isinstance(result, BaseException):
                logger.error("sink: stopped by a fault sink=%s", shipper.name, exc_info=result)
            elif shipper.lag_bytes:
                logger.warning(
                    "sink: not all delivered, the rest goes out at the next start sink=%s bytes=%d",
                    shipper.name,
                    shipper.lag_bytes,
                )

    def _set_modes(self) -> None:
        """Open or close the folders that an earlier start made, and so all that lies in them."""
        for name in FOLDERS:
            folder = self.settings.data_dir / name
            if folder.is_symlink() or not folder.exists():
                continue
            try:
                set_dir_mode(folder, self._file_mode)
            except OSError as error:
                logger.warning("data_dir: the mode of a folder can't be set: %s", error)

    def _journal_numbers(self) -> list[int]:
        root = journal_dir(self.settings)
        present = {
            int(path.name[1:])
            for path in root.glob("w*")
            if path.name[1:].isdecimal() and path.is_dir()
        }
        left_behind = {
            number
            for number in present
            if number >= self.settings.workers
            and number % self.settings.workers == self.worker % self.settings.workers
        }
        return [self.worker, *sorted(left_behind - {self.worker})]

    async def _open(self, number: int) -> None:
        settings = self.settings
        state = settings.data_dir / "state"
        log = await asyncio.to_thread(self._open_log, number, state)
        journal = self.journals[number] = GroupCommit(
            log,
            self._dead_letters(f"w{number}"),
            pending_bytes_max=settings.pending_bytes_max,
            journal_bytes_max=settings.journal_bytes_max,
            waits_for_disk=settings.durability != "memory",
        )
        shippers = [
            Shipper(
                f"w{number}-{built.name}",
                built.sink,
                log,
                self._dead_letters(f"w{number}-{built.name}"),
                cursor_path=state / f"w{number}-{built.cursor_name}.json",
                file_mode=self._file_mode,
                flush_interval_s=built.config.batch_interval_s,
                flush_bytes_max=built.config.batch_bytes_max,
                retry_s_max=built.config.retry_s_max,
            )
            for built in await asyncio.to_thread(registry.build, settings)
        ]
        self.shippers += shippers

        async def release() -> None:
            await journal.release(
                min(shipper.saved_position for shipper in shippers),
                retention_s=settings.journal_retention_s,
            )

        def wake() -> None:
            for shipper in shippers:
                if shipper.is_waiting and self._delivery is not None:
                    self._delivery.post(shipper.wake)

        for shipper in shippers:
            shipper.on_advance = release
        journal.on_commit = wake
        # What was delivered before the last stop must not take room from new events.
        await release()

    def _open_log(self, number: int, state: Path) -> SegmentLog:
        """Open a journal at a position that no cursor is beyond, a removed sink's included."""
        make_dir(state, self._file_mode)
        if blocked := obstacle(state):
            raise JournalFault(f"the data directory can't be used: {blocked} can't be written")
        known = [cursors.load(path) for path in state.glob(f"w{number}-*.json")]
        return SegmentLog(
            journal_dir(self.settings) / f"w{number}",
            segment_bytes_max=self.settings.journal_segment_bytes_max,
            disk_free_bytes_min=self.settings.disk_free_bytes_min,
            is_synced=self.settings.durability == "fsync",
            position_min=max((cursor.end for cursor in known if cursor), default=0),
            file_mode=self._file_mode,
        )

    def _dead_letters(self, prefix: str) -> DeadLetters:
        return DeadLetters(
            self.settings.data_dir / "dead-letter",
            prefix=prefix,
            bytes_max=self.settings.dead_letter_bytes_max,
            file_mode=self._file_mode,
        )

    async def _close_journals(self) -> None:
        for journal in self.journals.values():
            await journal.close()


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
