"""What a sink refuses for good: found in few steps, set aside with the reason, passed over."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import orjson

from segsrv.delivery.bundle import part_of
from segsrv.errors import SinkRejected
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.facts import Facts
from segsrv.journal.letters import SINK_REASON
from segsrv.sinks.base import Batch

logger = logging.getLogger(__name__)


class Rejects:
    """Sends a batch in parts when the sink refuses some of its events; keeps those as letters."""

    def __init__(self, name: str, dead_letters: DeadLetters) -> None:
        self.name = name
        self.events = 0
        self._dead_letters = dead_letters

    async def send(
        self,
        batch: Batch,
        send: Callable[[Batch], Awaitable[None]],
        on_disk: Callable[[Callable[[], None]], Awaitable[None]],
    ) -> int:
        """Send *batch*; return how many of its events the sink took. Letters are kept *on_disk*.

        Parts have ids that follow from the batch's, so that they are the same after a crash.
        """
        taken = 0
        todo = [batch]
        while todo:
            part = todo.pop()
            try:
                await send(part)
            except SinkRejected as error:
                refused, rest = split(part.events, error.indexes)
                if refused:
                    letters = self._letters(part, refused, error)
                    await on_disk(partial(self._dead_letters.append, letters))
                    self.events += len(letters)
                labels = ("others",) if refused else ("first half", "second half")
                todo += reversed(
                    [part_of(part, *named) for named in zip(rest, labels, strict=False)]
                )
            else:
                taken += part.events
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
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "reason": SINK_REASON,
        "message": message,
        "sink": sink,
        "key_id": facts.key_id,
        "format": facts.format,
        "item": orjson.Fragment(line[:-1]),
    }
    # The line end by itself makes a copy, without the spare room of what orjson returns.
    return orjson.dumps(letter) + b"\n"


def split(events: int, indexes: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Return which of so many *events* are refused for sure, and the parts still to be tried.

    *indexes* are those that the sink named, if it named any. Parts are in order.
    """
    if events == 1:
        return [0], []
    if named := sorted({index for index in indexes if 0 <= index < events}):
        others = sorted(set(range(events)).difference(named))
        return named, [others] if others else []
    middle = events // 2
    return [], [list(range(middle)), list(range(middle, events))]
