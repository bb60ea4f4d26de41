"""A worker's way to its share of the connections that wait at a listener of all workers.

The kernel wakes every worker for a new connection, and the quickest would take them all: the same
one again and again, and of a burst everything. So a worker that has clearly more than the emptiest
of the others leaves them to it for a moment. It never relies on that: what still waits after
`LEFT_S_MAX`, it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import ssl
import time
from collections.abc import Callable

from segsrv.process.roster import Place

logger = logging.getLogger(__name__)

ACCEPTS_MAX = 16
"""In one turn of the loop; those that have sent something wait no longer."""
MORE_MAX = 2
MORE_SHARE = 10
"""A worker takes connections while it has at most `MORE_MAX` and a tenth more than the others."""
LEAVE_S = 0.001
LEFT_S_MAX = 0.03
BEGIN_S_MAX = 0.1
FAILED_PAUSE_S = 0.1
FAILED_LINE_INTERVAL_S = 60.0


class Acceptor:
    """Takes connections from *listener* and gives each a protocol of *factory*.

    *count* returns how many are open. At most *beginning_max* are in their TLS handshake.
    """

    def __init__(
        self,
        listener: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        count: Callable[[], int],
        place: Place,
        beginning_max: int,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._listener = listener
        self._factory = factory
        self._count = count
        self._place = place
        self._beginning_max = beginning_max
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._waiting = select.poll()
        self._waiting.register(listener, select.POLLIN)
        self._timer: asyncio.TimerHandle | None = None
        self._left_since_s: float | None = None
        self._failed_said_s = -FAILED_LINE_INTERVAL_S

    def start(self) -> None:
        """Begin to take connections."""
        self._place.hold(self.held)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Take no more; what waits at the listener is the others'. What has begun goes on."""
        self._place.leave()
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()

    async def wait_closed(self) -> None:
        """Let what was just accepted begin, and end handshakes that take longer than a moment."""
        if self._beginning:
            _done, beginning = await asyncio.wait(self._beginning, timeout=BEGIN_S_MAX)
            for task in beginning:
                task.cancel()
            if beginning:
                await asyncio.wait(beginning)

    @property
    def held(self) -> int:
        """How many connections this worker has, with those in their handshake."""
        return self._count() + len(self._beginning)

    def _accept(self) -> None:
        held = self.held
        for _time in range(ACCEPTS_MAX):
            if len(self._beginning) >= self._beginning_max:
                self._pause(FAILED_PAUSE_S)
                return
            if not self._is_my_turn(held):
                self._pause(LEAVE_S)
                return
            try:
                connection, _peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._failed(error)
                return
            connection.setblocking(False)
            held += 1
            self._place.hold(held)
            task = self._loop.create_task(self._begin(connection), name="segsrv-connection")
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    def _is_my_turn(self, held: int) -> bool:
        fewest = self._place.fewest_of_others()
        if fewest is None or held <= fewest + MORE_MAX + fewest // MORE_SHARE:
            self._left_since_s = None
            return True
        now_s = time.monotonic()
        if self._left_since_s is None:
            self._left_since_s = now_s
        if now_s - self._left_since_s < LEFT_S_MAX:
            return False
        # One, and the next in as long a time: the others are slow, or their lines are wrong.
        self._left_since_s = now_s
        return True

    def _pause(self, pause_s: float) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(pause_s, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        if not self._waiting.poll(0):
            # The others have taken what was left to them.
            self._left_since_s = None
        self._loop.add_reader(self._listener, self._accept)

    def _failed(self, error: OSError) -> None:
        """Wait a little: files of others may be closed meanwhile, and the connection waits."""
        now_s = time.monotonic()
        if now_s >= self._failed_said_s + FAILED_LINE_INTERVAL_S:
            logger.error("connections can't be accepted: %s", error)
            self._failed_said_s = now_s
        self._pause(FAILED_PAUSE_S)

    async def _begin(self, connection: socket.socket) -> None:
        # What a client does wrong in its handshake, or one that is gone by now, is no fault here.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            try:
                await self._loop.connect_accepted_socket(
                    self._factory, connection, ssl=self._context
                )
            except BaseException:
                connection.close()
                raise
