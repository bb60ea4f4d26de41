"""A sink that stores events with their batch's id in one transaction, and everything that can fail.

Each seed is a history of its own: answers that are lost before or after the transaction, time-outs,
refusals that come and go, ends of delivery at any moment, a cursor of which the newest slot or all
is lost. Then every event was stored exactly once, or is a dead letter.
"""

import asyncio
import json
import random

import pytest

from segsrv.delivery import attempts
from segsrv.delivery import cursor as cursors
from segsrv.delivery.believing import stood_at
from segsrv.errors import SinkRejected, SinkUnavailable
from segsrv.sinks.base import Batch, Delivered, Placement
from tests.delivery.shipping import MemorySink, append_batch, cursor_path, open_log, shipping
from tests.waiting import until

SEEDS = 40
LIVES = 12
TIMEOUT_S = 0.02
PART_DASHES = 2
"""In the id of a part of a batch."""


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch):
    monkeypatch.setattr(attempts, "RETRY_S_MIN", 0.0001)


class Database:
    """What survives delivery: rows, and beside them the last batch's id and the ends."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.last = Delivered("", {})

    def commit(self, batch: Batch) -> None:
        self.rows += batch.lines()
        self.last = Delivered(batch.id, batch.ends)


class TransactionalSink(MemorySink):
    def __init__(self, database: Database, source: random.Random, *, is_calm: bool) -> None:
        super().__init__()
        self._database = database
        self._source = source
        self._is_calm = is_calm

    async def send(self, batch: Batch, placement: Placement) -> None:  # noqa: ARG002
        self.calls += 1
        database, chance = self._database, self._source.random
        if batch.id == database.last.batch_id:
            return
        if not self._is_calm and chance() < 0.2:
            raise SinkUnavailable("connection refused")
        bad = [index for index, line in enumerate(batch.lines()) if self._refuses(line)]
        if bad:
            raise SinkRejected("no", indexes=bad if chance() < 0.5 else ())
        if not self._is_calm and chance() < 0.1:
            await asyncio.Event().wait()
        database.commit(batch)
        if not self._is_calm and chance() < 0.3:
            if chance() < 0.5:
                await asyncio.Event().wait()
            raise SinkUnavailable("connection reset by peer")

    def _refuses(self, line: bytes) -> bool:
        number = json.loads(line)["n"]
        # Some for good, and some only at times.
        return number % 17 == 0 or (number % 7 == 0 and self._source.random() < 0.3)

    async def delivered(self) -> Delivered:
        return self._database.last


def damage(path, source, last):
    """Lose the newest slot of a cursor, or all of it, now and then.

    Not in the middle of a split: only the cursor knows which parts are stored. Nor behind one of
    which the last part was refused, until the sink takes another batch: *last*, what it took
    last, says of the parts before that they end where the split batch began.
    """
    known = [cursor for cursor in cursors.read(path)[:2] if cursor is not None]
    if not known or any(cursor.in_hand.parts for cursor in known):
        return
    is_part = last.batch_id.count("-") == PART_DASHES
    starts = [span.start for span in known[0].spans.values()]
    if is_part and any(end < start for end in last.ends.values() for start in starts):
        return
    if source.random() < 0.1:
        path.unlink()
    elif source.random() < 0.1:
        data = bytearray(path.read_bytes())
        data[data.rindex(b'"journals"')] ^= 0xFF
        path.write_bytes(data)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_every_event_is_there_once_or_is_a_letter(tmp_path, seed):
    """Whatever fails, and in whichever order."""
    source, database = random.Random(seed), Database()
    lines: list[bytes] = []
    for life in range(LIVES):
        log = open_log(tmp_path)
        is_last = life == LIVES - 1
        for _frame in range(source.randint(0, 4)):
            size = source.randint(1, 30)
            lines += append_batch(log, *range(len(lines), len(lines) + size))
        sink = TransactionalSink(database, source, is_calm=is_last)
        async with shipping(
            tmp_path,
            log,
            sink,
            grace_s=10 if is_last else 0,
            timeout_s=TIMEOUT_S if not is_last else 10,
            flush_events_max=source.choice([10, 50, 1_000]),
            is_ours=lambda _name, *moment, log=log: stood_at(log.directory, *moment),
        ) as shipper:
            calls = source.randint(0, 12)
            await until(
                lambda shipper=shipper, sink=sink, calls=calls, is_last=is_last: (
                    shipper.standing.is_known
                    and (shipper.lag_bytes == 0 or (sink.calls >= calls and not is_last))
                )
            )
        log.close()
        if not is_last:
            damage(cursor_path(tmp_path), source, database.last)

    files = sorted((tmp_path / "dead-letter").glob("*.ndjson"))
    letters = {
        b'{"n":%d}\n' % json.loads(line)["item"]["n"]
        for file in files
        for line in file.read_bytes().splitlines()
    }
    assert len(database.rows) == len(set(database.rows))
    assert set(database.rows) | letters == set(lines)
