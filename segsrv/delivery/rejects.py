"""What a sink refuses for good: found in few steps, set aside with the reason, passed over."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial

import orjson

from segsrv.delivery.bundle import part_of
from segsrv.delivery.cursor import Ranges
from segsrv.errors import SinkRejected
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.facts import Facts
from segsrv.journal.letters import SINK_REASON
from segsrv.sinks.base import Batch, Ends

logger = logging.getLogger(__name__)

RANGES_MAX = 1_000
"""Of one part: what is to be sent has to fit into the cursor."""


class Rejects:
    """Sends a batch in parts when the sink refuses some of its events; keeps those as letters."""

    def __init__(self, name: str, dead_letters: DeadLetters) -> None:
        self.name = name
        self.events = 0
        self.dead_letters = dead_letters

    async def send(
        self,
        batch: Batch,
        parts: Sequence[Ranges],
        *,
        starts: Ends,
        send: Callable[[Batch], Awaitable[None]],
        on_disk: Callable[[Callable[[], None]], Awaitable[None]],
        keep: Callable[[Sequence[Ranges]], Awaitable[None]],
    ) -> int:
        """Send *batch*, or those *parts* of it; return how many of its events the sink took.

        What is left to be sent is given to *keep*, which writes it down, before anything of it is
        sent: after a crash the parts are the same, also where the sink would refuse others by then.
        Letters are written *on_disk*. *starts* says up to where all is delivered before that.
        """
        taken = 0
        todo = list(parts) or [((0, batch.events),)]
        is_split = bool(parts)
        while todo:
            ranges = todo[0]
            ends = batch.ends if len(todo) == 1 else starts
            part = part_of(batch, ranges, ends) if is_split else batch
            try:
                await send(part)
            except SinkRejected as error:
                refused, others = split(expand(ranges), error.indexes)
                if refused:
                    letters = self._letters(batch, refused, error)
                    await on_disk(partial(self.dead_letters.append, letters))
                    self.events += len(letters)
                todo[:1] = [compress(numbers) for numbers in others]
                is_split = True
            else:
                taken += part.events
                del todo[0]
            if todo:
                await keep(todo)
        return taken

    def _letters(self, batch: Batch, numbers: Sequence[int], error: SinkRejected) -> list[bytes]:
        logger.error("sink: rejected sink=%s events=%d error=%s", self.name, len(numbers), error)
        lines = batch.lines()
        return [
            letter_of(self.name, str(error), batch.facts[number], lines[number])
            for number in numbers
        ]


def letter_of(sink: str, message: str, facts: Facts, line: bytes) -> bytes:
    """Return the dead letter, with its newline, of an event that *sink* refused just now."""
    letter = {
        "time": letter_time(),
        "reason": SINK_REASON,
        "message": message,
        "sink": sink,
        "key_id": facts.key_id,
        "format": facts.format,
        "item": orjson.Fragment(line[:-1]),
    }
    # The line end by itself makes a copy, without the spare room of what orjson returns.
    return orjson.dumps(letter) + b"\n"


def letter_time() -> str:
    """Return the time now, as letters have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def split(numbers: Sequence[int], indexes: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Return which of *numbers* are refused for sure, and the parts still to be tried, in order.

    *indexes* are those in *numbers* that the sink named, if it named any. Where they would leave a
    part in more than RANGES_MAX pieces, both halves are tried first, as if none were named.
    """
    if len(numbers) == 1:
        return list(numbers), []
    named = {numbers[index] for index in indexes if 0 <= index < len(numbers)}
    if named:
        others = [number for number in numbers if number not in named]
        if len(compress(others)) <= RANGES_MAX:
            return sorted(named), [others] if others else []
    middle = len(numbers) // 2
    return [], [list(numbers[:middle]), list(numbers[middle:])]


def expand(ranges: Ranges) -> list[int]:
    """Return the numbers that *ranges* stand for."""
    return [number for low, high in ranges for number in range(low, high)]


def compress(numbers: Iterable[int]) -> Ranges:
    """Return the ranges that *numbers*, in order, come to."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return tuple(ranges)
