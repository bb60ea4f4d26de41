"""A sink's transformations between what it is to get and the batch that it does get."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import orjson

from segsrv.delivery.attempts import Attempts
from segsrv.delivery.bundle import Limits, Slice, batch_of, content_of, facts_of
from segsrv.delivery.disk import DiskThread
from segsrv.delivery.rejects import letter_time
from segsrv.delivery.spool import Spool
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.facts import Facts
from segsrv.sinks.base import Batch, Ends
from segsrv.transform.process import LOAD_TIMEOUT_S, Hello
from segsrv.transform.transformer import Fault, Transformed, Transformer, TransformStats

logger = logging.getLogger(__name__)

MARK = "-t"
"""Ends the id of a batch that was transformed: it is never to be sent as it stands in a journal."""
MADE_PARTS_MAX = 8
"""All that is made of one batch is at most so many times as large as a batch may be."""
TIMEOUT_S = 2 * LOAD_TIMEOUT_S
"""Of a try to load the functions, which has a limit of its own."""
FIRST_EVENTS = 64
SLOW_S = 2.0
"""A batch that takes so long is followed by a smaller one: what it became is kept at its end."""
QUICK_S = 0.5
EVENTS_MAX = 1 << 24
GROWTH = 2


class Transforming:
    """Makes batches of what a sink's functions return; belongs to its shipper.

    *attempts* has how the functions are, apart from the sink: whether they can be loaded.
    """

    def __init__(
        self,
        transformer: Transformer,
        spool: Spool,
        letters: DeadLetters,
        attempts: Attempts,
    ) -> None:
        self.attempts = attempts
        self._transformer = transformer
        self._spool = spool
        self._letters = letters
        self._events_max = FIRST_EVENTS
        # How many times as many bytes came out of the last batch as went in.
        self._growth = 1.0

    @property
    def stats(self) -> TransformStats:
        return self._transformer.stats

    @property
    def pid(self) -> int | None:
        """The process that runs the functions, if there is one."""
        return self._transformer.pid

    @property
    def has_functions(self) -> bool:
        """Whether any event is transformed, for now."""
        return self._transformer.has_functions

    def use(self, hello: Hello) -> None:
        """Have the next batch go through other functions, if they can be loaded."""
        self._transformer.use(hello)

    def limits(self, limits: Limits) -> Limits:
        """Return how much to read for a batch that keeps within *limits* when it is transformed."""
        if not self.has_functions:
            return limits
        return replace(
            limits,
            events_max=max(min(limits.events_max, self._events_max), 1),
            bytes_max=max(int(limits.bytes_max / self._growth), 1),
        )

    async def batch(
        self,
        batch_id: str,
        slices: Sequence[Slice],
        ends: Ends,
        *,
        disk: DiskThread,
        needed: Collection[str],
    ) -> Batch | None:
        """Return what *slices* become, kept on disk; None if nothing is left of them.

        What is set aside is safe in the dead letters then. Batches that are *needed* stay on disk.
        """
        if not self.has_functions:
            return batch_of(batch_id, slices, ends)
        lines = [line for part in slices for line in io.BytesIO(content_of(part))]
        facts = [fact for part in slices for fact in facts_of(part)]
        started_s = time.monotonic()
        done = await self._transformer.apply(lines, facts)
        self._note(time.monotonic() - started_s, len(lines), sum(map(len, lines)), done)
        if done.faults:
            await self._set_aside(done.faults, lines, facts, disk)
        if not done.lines:
            return None
        made = done.facts
        batch = Batch(batch_id + MARK, [b"".join(done.lines)], len(made), lambda: made, ends)
        await disk.until_done(partial(self._spool.save, batch, needed))
        return batch

    async def close(self) -> None:
        await self._transformer.close()

    async def _set_aside(
        self,
        faults: Sequence[Fault],
        lines: Sequence[bytes],
        facts: Sequence[Facts],
        disk: DiskThread,
    ) -> None:
        name = self._transformer.name
        first = faults[0]
        logger.error(
            "transform: set aside sink=%s events=%d reason=%s error=%s",
            name,
            len(faults),
            first.reason,
            first.message,
        )
        letters = [
            letter_of_fault(name, fault, facts[fault.number], lines[fault.number])
            for fault in faults
        ]
        await disk.until_done(lambda: self._letters.append(letters))

    def _note(self, took_s: float, events: int, size: int, done: Transformed) -> None:
        made_bytes = sum(map(len, done.lines))
        self._growth = max(made_bytes / max(size, 1), len(done.lines) / max(events, 1), 1.0)
        if took_s > SLOW_S:
            self._events_max = max(int(events * SLOW_S / took_s / GROWTH), 1)
        elif took_s < QUICK_S and events * GROWTH > self._events_max:
            self._events_max = min(self._events_max * GROWTH, EVENTS_MAX)


def letter_of_fault(sink: str, fault: Fault, facts: Facts, line: bytes) -> bytes:
    """Return the dead letter, with its newline, of an event that a function could not take."""
    letter = {
        "time": letter_time(),
        "reason": fault.reason,
        "message": fault.message,
        "sink": sink,
        "key_id": facts.key_id,
        "format": facts.format,
    }
    if fault.traceback:
        letter["traceback"] = fault.traceback
    return orjson.dumps({**letter, "item": orjson.Fragment(line[:-1])}) + b"\n"
