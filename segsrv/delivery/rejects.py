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
from segsrv.sinks.base import Batch

logger = logging.getLogger(__name__)

REASON = "sink_rejected"


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
                refused, rest = _split(part, error.indexes)
                if refused is not None:
                    letters = self._letters(refused, error)
                    await on_disk(partial(self._dead_letters.append, letters))
                    self.events += len(letters)
                todo += reversed(rest)
            else:
                taken += part.events
        return taken

    def _letters(self, batch: Batch, error: SinkRejected) -> list[bytes]:
        logger.error("sink: rejected sink=%s events=%d error=%s", self.name, batch.events, error)
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return [
            # The line end by itself makes a copy, without the spare room of what orjson returns.
            orjson.dumps(
                {
                    "time": now,
                    "reason": REASON,
                    "message": str(error),
                    "sink": self.name,
                    "key_id": fact.key_id,
                    "format": fact.format,
                    "item": orjson.Fragment(line[:-1]),
                }
            )
            + b"\n"
            for line, fact in zip(batch.lines(), batch.facts, strict=True)
        ]


def _split(batch: Batch, indexes: Sequence[int]) -> tuple[Batch | None, list[Batch]]:
    """Return what is refused for sure, and the parts that are still to be tried, in order."""
    named = {index for index in indexes if 0 <= index < batch.events}
    if batch.events == 1:
        return batch, []
    if named:
        others = [number for number in range(batch.events) if number not in named]
        refused = part_of(batch, sorted(named), "refused")
        return refused, [part_of(batch, others, "others")] if others else []
    middle = batch.events // 2
    return None, [
        part_of(batch, range(middle), "first half"),
        part_of(batch, range(middle, batch.events), "second half"),
    ]
