"""Large requests take turns: one at a time, and in steps between which the loop serves all others.

Turns go round by sender: of those who wait, each has one before anybody has a second. So a client
with a hundred large requests keeps another one's waiting for one of them, not for all.

A step is work that nothing interrupts. After a long one, such as a parser's, the loop is left to
the others for a moment, and after a request that is refused for as long as that took. A small
request needs several rounds of the loop until its answer is out, and each of them would else be
behind another step.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Generator
from typing import TypeVar

STEP_S = 0.002
"""A step goes on for about so long, where it can be ended."""
LONG_STEP_S = 0.008
REST_SHARE = 0.25
REST_S_MAX = 0.02

T = TypeVar("T")


class Rounds:
    """Lets one of those that wait go on in each round of the loop, in the order of their coming.

    For short steps that nobody else would interrupt, such as the decompression of a piece of a
    body: with many clients at it, one round of all of them would take long.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def next(self) -> None:
        async with self._lock:
            await asyncio.sleep(0)


class Turns:
    """Lets one large request work at a time; `of` waits for a turn, `work` makes use of it.

    So what a large body becomes when it is parsed is in memory once, however many there are.
    """

    def __init__(self) -> None:
        self._is_taken = False
        # In the order in which the senders are next; each has somebody waiting.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._rested_at_s = 0.0

    @contextlib.asynccontextmanager
    async def of(self, sender: str) -> AsyncIterator[None]:
        """Hold the turn of a request from *sender* for the length of the block."""
        if self._is_taken:
            await self._wait(sender)
        self._is_taken = True
        try:
            if self._rested_at_s > time.perf_counter():
                await self._rest()
            yield
        finally:
            self._pass_on()

    async def _wait(self, sender: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(sender, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # It was given the turn at the same moment.
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Give the turn to the sender who is next; whose request was cancelled has lost it."""
        while self._waiting:
            sender = next(iter(self._waiting))
            queue = self._waiting.pop(sender)
            turn = queue.popleft()
            if queue:
                self._waiting[sender] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False

    async def work(self, steps: Generator[None, None, T]) -> T:
        """Run *steps*, as many in a row as STEP_S allows; return what they return."""
        clock = time.perf_counter
        began_s = started_s = clock()
        try:
            while True:
                next(steps)
                now_s = clock()
                if now_s - started_s >= STEP_S:
                    self._rest_after(now_s - started_s)
                    await self._rest()
                    started_s = clock()
        except StopIteration as end:
            self._rest_after(clock() - started_s)
            result: T = end.value
            return result
        except BaseException:
            # Who is refused has cost the others enough: they get as much time as it took.
            self._rest_for(clock() - began_s)
            raise

    def _rest_after(self, step_s: float) -> None:
        if step_s > LONG_STEP_S:
            self._rest_for(step_s * REST_SHARE)

    def _rest_for(self, seconds: float) -> None:
        self._rested_at_s = time.perf_counter() + min(seconds, REST_S_MAX)

    async def _rest(self) -> None:
        """Give the loop a round, and after a long step some time."""
        await asyncio.sleep(max(self._rested_at_s - time.perf_counter(), 0))
