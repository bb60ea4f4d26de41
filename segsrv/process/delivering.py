"""The process that delivers for all workers: their journals in, batches for the sinks out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator

import uvloop

from segsrv import allocator
from segsrv.board import Board
from segsrv.delivery import journals
from segsrv.delivery.delivery import Delivery
from segsrv.delivery.source import FollowedSource, LeftSource, Source
from segsrv.errors import JournalFault, SegsrvError
from segsrv.journal import lock
from segsrv.key_watch import KeyWatch
from segsrv.ops.peers import DELIVERY, Peers, Report
from segsrv.ops.sink_metrics import delivery_figures, delivery_report
from segsrv.process.children import Start
from segsrv.process.handover import hold_signals
from segsrv.settings import Settings
from segsrv.sinks.registry import build
from segsrv.write_keys import KeySource

logger = logging.getLogger(__name__)

FULL_INTERVAL_S = 0.25


def run_delivery(settings: Settings, board: Board, source: KeySource | None, start: Start) -> int:
    """Deliver in this process until it is told to stop; return the exit status."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_deliver(settings, board, source, start))
    except SegsrvError as error:
        if not start.is_quiet:
            print(f"segsrv: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


async def _deliver(
    settings: Settings, board: Board, source: KeySource | None, start: Start
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Not SIGINT, which a terminal sends to all: the workers end first.
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if (parent_fd := start.parent_fd) is not None:

        def parent_is_gone() -> None:
            loop.remove_reader(parent_fd)
            stop.set()

        loop.add_reader(parent_fd, parent_is_gone)
    async with _delivering(settings, board) as delivery:
        allocator.collect_seldom()
        tasks = [
            asyncio.create_task(_say_full(board, delivery), name="segsrv-full"),
            asyncio.create_task(_publish(settings, delivery), name="segsrv-peers"),
            asyncio.create_task(allocator.trim_for_ever(), name="segsrv-trim"),
        ]
        if source is not None:
            watch = KeyWatch(settings, source, delivery.use_keys, tells=False)
            loop.add_signal_handler(signal.SIGHUP, watch.ask)
            tasks.append(asyncio.create_task(watch.run(), name="segsrv-keys"))
        if start.place is not None:
            tasks.append(asyncio.create_task(start.place.keep(), name="segsrv-place"))
        logger.info("started delivery pid=%d", os.getpid())
        delivery.on_closed = stop.set
        start.on_ready()
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        logger.info("stopping delivery")
        if delivery.is_closed:
            raise delivery.closed_error()
    await loop.shutdown_default_executor()
    # Without a loop to handle it, one more would end the process.
    hold_signals()


@contextlib.asynccontextmanager
async def _delivering(settings: Settings, board: Board) -> AsyncIterator[Delivery]:
    """Open all journals, deliver, and at the end flush for the grace period."""
    file_mode = int(settings.file_mode, 8)
    sources: list[Source] = [
        FollowedSource(
            name, journals.journal_dir(settings) / name, board.worker(number), file_mode=file_mode
        )
        for number, name in enumerate(map(journals.journal_name, range(settings.workers)))
    ]
    left: list[LeftSource] = []
    lock_fd = -1
    try:
        lock_fd, lock_path = journals.take_delivery_lock(settings)
        for number in journals.left_behind(settings):
            left.append(journals.open_left(settings, number))  # noqa: PERF401 - one may fail.
        delivery = Delivery(
            settings,
            build(settings, origin=journals.origin(settings)),
            [*sources, *left],
            guard=lambda: lock.check(lock_fd, lock_path),
        )

        def say_waiting() -> None:
            board.is_waiting = delivery.is_waiting

        def wake() -> None:
            board.clear_wake()
            delivery.wake()

        delivery.on_waiting = say_waiting
        loop = asyncio.get_running_loop()
        loop.add_reader(board.wake_fd, wake)
        await delivery.start()
        try:
            yield delivery
        finally:
            await delivery.stop(settings.shutdown_grace_s)
            loop.remove_reader(board.wake_fd)
    except OSError as error:
        raise JournalFault(f"the data directory can't be used: {error}") from error
    finally:
        for source in left:
            await source.close()
        if lock_fd >= 0:
            os.close(lock_fd)


async def _say_full(board: Board, delivery: Delivery) -> None:
    """Tell the workers when to refuse events for a sink's sake, for ever."""
    while True:
        board.sinks_full = delivery.full_sink
        await asyncio.sleep(FULL_INTERVAL_S)


async def _publish(settings: Settings, delivery: Delivery) -> None:
    peers = Peers(
        settings.data_dir / "state" / "metrics",
        name=DELIVERY,
        workers=settings.workers,
        has_delivery=True,
        file_mode=int(settings.file_mode, 8),
    )

    figures = delivery_figures(delivery)

    async def report() -> Report:
        return await delivery_report(delivery, figures)

    await peers.publish(report)
