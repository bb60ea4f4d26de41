"""What a process that takes requests is asked by signals, and by the end of its parent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time

from segsrv.process.children import AGAIN_S_MIN, Start
from segsrv.process.handover import (
    REHEARSAL_S_MAX,
    STOP_SIGNALS,
    Successor,
    hold_signals,
    release_signals,
)

logger = logging.getLogger(__name__)


class Asked:
    """Sets `stop` when the process is to end. Without a parent, SIGUSR2 asks for its successor."""

    def __init__(self, start: Start) -> None:
        self.stop = asyncio.Event()
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._stop_asked_s: float | None = None
        self._is_again = False
        self._rehearsing: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Take signals from now on, and those that have waited for it."""
        parent_fd = self._start.parent_fd
        if parent_fd is not None:
            # A service manager may send to each of its processes what their parent sends on.
            for number in STOP_SIGNALS:
                self._loop.add_signal_handler(number, self.stop.set)
            # A worker without its parent would hold the data directory against the next start.
            self._loop.add_reader(parent_fd, self._parent_is_gone, parent_fd)
            return
        for number in STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._ask_to_stop, number)
        if self._start.successor is not None:
            self._loop.add_signal_handler(signal.SIGUSR2, self._ask_to_restart)
        release_signals()

    async def wait(self) -> None:
        """Return when the process is to end; a limit of its time runs from then on."""
        await self.stop.wait()
        if self._start.stop_s_max is not None:
            timer = threading.Timer(self._start.stop_s_max, self._give_up)
            timer.daemon = True
            # The thread may outlive the loop, and is not to be the one that takes a signal then.
            hold_signals()
            timer.start()
            release_signals()
        if self._rehearsing is not None:
            self._rehearsing.cancel()
            await asyncio.wait([self._rehearsing])

    async def finish(self) -> None:
        """Take no more signals: without a loop to handle them, the next one would end the process.

        They wait for the successor, if one comes now.
        """
        # It may hang, and can be interrupted so far.
        await self._loop.shutdown_default_executor()
        hold_signals()

    def _parent_is_gone(self, parent_fd: int) -> None:
        self._loop.remove_reader(parent_fd)
        self.stop.set()

    def _ask_to_stop(self, number: int) -> None:
        now_s = time.monotonic()
        if self._stop_asked_s is None:
            self._stop_asked_s = now_s
        elif number == signal.SIGINT and now_s >= self._stop_asked_s + AGAIN_S_MIN:
            logger.error("process is not waited for, ended pid=%d", os.getpid())
            _end()
        if self._start.successor is not None:
            self._start.successor.is_due = False
        self.stop.set()

    def _ask_to_restart(self) -> None:
        self._is_again = True
        if self._rehearsing is None and not self.stop.is_set():
            self._rehearsing = asyncio.create_task(self._rehearse(), name="segsrv-rehearsal")

    async def _rehearse(self) -> None:
        successor = self._start.successor
        assert successor is not None
        status = 0
        # Who asks during a rehearsal means what is there by now.
        while self._is_again:
            self._is_again = False
            logger.info("restart is asked for, rehearsing")
            status = await _rehearsed(successor)
        self._rehearsing = None
        if status:
            logger.error(
                "no restart, the server goes on as it is: the rehearsal ended with %d", status
            )
            return
        successor.is_due = True
        self.stop.set()

    def _give_up(self) -> None:
        limit_s = self._start.stop_s_max
        logger.error("process did not stop within %g s, ended pid=%d", limit_s, os.getpid())
        successor = self._start.successor
        if successor is not None and successor.is_due:
            # Whatever hangs ends with this program, too.
            with contextlib.suppress(OSError):
                successor.execute()
        _end()


async def _rehearsed(successor: Successor) -> int:
    """Run a rehearsal; return its exit status."""
    try:
        process = await asyncio.create_subprocess_exec(
            *successor.command,
            stdin=asyncio.subprocess.DEVNULL,
            env=successor.rehearsal_environment(),
        )
    except OSError as error:
        logger.error("rehearsal can't be started: %s", error)  # noqa: TRY400
        return 1
    try:
        return await asyncio.wait_for(process.wait(), REHEARSAL_S_MAX)
    except TimeoutError:
        return -signal.SIGKILL
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _end() -> None:
    logging.shutdown()
    os._exit(1)
