"""Events sent to one sink by a command: tried a few times, and in parts where some are refused."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

from segsrv.delivery.rejects import split
from segsrv.errors import SinkRejected, SinkUnavailable
from segsrv.journal.facts import Facts
from segsrv.sinks.base import Batch, Placement, Sink

TRIES = 6
RETRY_S_MIN = 0.2
RUN_BYTES = 6

T = TypeVar("T")


class Event(NamedTuple):
    """A stored line with its newline, and what is known of it."""

    line: bytes
    facts: Facts


class Refused(NamedTuple):
    """The number of an event in what was sent, and why the sink never takes it."""

    number: int
    message: str


class Sender:
    """Sends to an open sink; belongs to one event loop.

    Batches are called `replay-<random>-<number>`, so that no sink takes them for those of the
    server or of an earlier run, and stores what it was asked to store again.
    """

    def __init__(self, name: str, sink: Sink, *, timeout_s: float) -> None:
        self.name = name
        self.sink = sink
        self.batches = 0
        self._timeout_s = timeout_s
        self._run = secrets.token_hex(RUN_BYTES)
        self._placement: Placement = {}

    async def open(self) -> None:
        """Get the sink ready; raises as `send`."""
        await self._tried(self.sink.open)

    async def send(
        self, events: Sequence[Event], on_taken: Callable[[Sequence[int]], object]
    ) -> list[Refused]:
        """Deliver *events* in order; return those that the sink refuses for good.

        *on_taken* is told the numbers of those that are safe in the sink, as soon as they are.

        Raises:
            SinkUnavailable: The sink was tried several times; it may have more of *events* than
                *on_taken* was told.
            SinkMisconfigured: It takes nothing as it is configured.

        """
        refused: list[Refused] = []
        todo = [list(range(len(events)))]
        while todo:
            numbers = todo.pop()
            try:
                await self._send([events[number] for number in numbers])
            except SinkRejected as error:
                bad, parts = split(numbers, error.indexes)
                refused += [Refused(number, str(error)) for number in bad]
                todo += reversed(parts)
            else:
                on_taken(numbers)
        return sorted(refused)

    async def _send(self, events: Sequence[Event]) -> None:
        self.batches += 1
        batch = Batch(
            f"replay-{self._run}-{self.batches}",
            [b"".join(event.line for event in events)],
            len(events),
            lambda: [event.facts for event in events],
        )
        placement = await self._tried(lambda: self.sink.plan(batch, self._placement))
        self._placement = placement
        await self._tried(lambda: self.sink.send(batch, placement))

    async def _tried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what *attempt* does, made again with the same arguments while it may help."""
        delay_s = RETRY_S_MIN
        for number in range(1, TRIES + 1):
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await attempt()
            except TimeoutError:
                reason = f"no answer within {self._timeout_s:g} s"
            except (SinkUnavailable, OSError) as error:
                reason = str(error)
            if number < TRIES:
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311
                delay_s *= 2
        raise SinkUnavailable(f"sink {self.name}: {reason}")
