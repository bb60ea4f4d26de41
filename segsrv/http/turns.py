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
import time
from collections import deque
from collections.abc import Callable, Generator

STEP_S = 0.002
"""So much is done in a round of the loop, where a step can be ended, of however many requests."""
LONG_STEP_S = 0.008
REST_SHARE = 0.25
REST_S_MAX = 0.02

Steps = Generator[None, None, None]


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
    """Lets one large request work at a time, from the first of its steps to the last.

    So what a large body becomes when it is parsed is in memory once, however many there are.
    """

    def __init__(self) -> None:
        # In the order in which the senders are next; each has something waiting.
        self._waiting: dict[str, deque[tuple[Steps, Callable[[Exception], None]]]] = {}
        self._steps: Steps | None = None
        self._on_error: Callable[[Exception], None] = _raise
        self._began_s = 0.0
        self._rested_at_s = 0.0
        self._is_scheduled = False

    def add(self, sender: str, steps: Steps, on_error: Callable[[Exception], None]) -> None:
        """Have *steps* run when it is *sender*'s turn; *on_error* gets what they raise, if so.

        How many wait is for the caller to limit.
        """
        self._waiting.setdefault(sender, deque()).append((steps, on_error))
        if not self._is_scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._is_scheduled = True
        loop = asyncio.get_running_loop()
        rest_s = self._rested_at_s - time.perf_counter()
        if rest_s > 0:
            loop.call_later(rest_s, self._work)
        else:
            loop.call_soon(self._work)

    def _work(self) -> None:
        """Do what fits into a round of the loop."""
        self._is_scheduled = False
        clock = time.perf_counter
        started_s = now_s = clock()
        while now_s - started_s < STEP_S and self._rested_at_s <= now_s and self._take_next(now_s):
            steps = self._steps
            assert steps is not None
            try:
                next(steps)
            except StopIteration:
                self._steps = None
            except Exception as error:  # noqa: BLE001 - whose request it is, knows what it is.
                self._steps = None
                # Who is refused has cost the others enough: they get as much time as it took.
                self._rest_for(clock() - self._began_s)
                self._on_error(error)
            step_s = clock() - now_s
            now_s += step_s
            if step_s > LONG_STEP_S:
                self._rest_for(step_s * REST_SHARE)
        if self._steps is not None or self._waiting:
            self._schedule()

    def _take_next(self, now_s: float) -> bool:
        """Say whether there is a request at work, the next one if need be."""
        if self._steps is None:
            if not self._waiting:
                return False
            sender = next(iter(self._waiting))
            queue = self._waiting.pop(sender)
            self._steps, self._on_error = queue.popleft()
            if queue:
                self._waiting[sender] = queue
            self._began_s = now_s
        return True

    def _rest_for(self, seconds: float) -> None:
        rested_at_s = time.perf_counter() + min(seconds, REST_S_MAX)
        self._rested_at_s = max(self._rested_at_s, rested_at_s)


def _raise(error: Exception) -> None:
    raise error
