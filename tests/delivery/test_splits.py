"""How a batch is split of which a sink refuses events: written down first, so the same again."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segsrv.delivery import attempts
from segsrv.delivery.cursor import Cursor
from segsrv.delivery.rejects import RANGES_MAX, compress, expand, split
from segsrv.errors import SinkRejected
from segsrv.sinks.base import Batch, Placement
from tests.delivery.shipping import (
    MemorySink,
    append_batch,
    kept,
    of_own_cursor,
    open_log,
    shipping,
)
from tests.waiting import until


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch):
    monkeypatch.setattr(attempts, "RETRY_S_MIN", 0.001)


@pytest.fixture
def log(tmp_path):
    log = open_log(tmp_path)
    yield log
    log.close()


class LastIdSink(MemorySink):
    """Stores events with the id of their batch, as one transaction does, and knows the last id.

    Refuses batches that hold a number of *bad*; after *takes* batches it stores one more, and
    never answers.
    """

    def __init__(self, *bad: int, takes: int = 1_000) -> None:
        super().__init__()
        self.bad = {b'{"n":%d}\n' % number for number in bad}
        self.takes = takes
        self.last_id = ""

    async def send(self, batch: Batch, placement: Placement) -> None:
        self.calls += 1
        if batch.id == self.last_id:
            return
        if not self.bad.isdisjoint(batch.lines()):
            raise SinkRejected("bad number")
        self.last_id = batch.id
        self.sent.append((batch, placement))
        if len(self.sent) > self.takes:
            await asyncio.Event().wait()


@pytest.mark.parametrize("takes", range(3))
@pytest.mark.parametrize("is_changed", [False, True], ids=["same", "changed"])
async def test_each_event_is_stored_once_wherever_delivery_ends(
    tmp_path, log, takes, is_changed, caplog
):
    """Ended in any part with its outcome unknown, it goes on with that part and what follows it.

    Also where the sink has changed its mind, and would take by then what it refused.
    """
    lines = append_batch(log, *range(10))
    sink = LastIdSink(7, takes=takes)
    async with shipping(tmp_path, log, sink, grace_s=0):
        await until(lambda: len(sink.sent) == takes + 1)
    sink.takes = 1_000
    if is_changed:
        sink.bad = set()
    async with shipping(tmp_path, log, sink) as shipper:
        await until(lambda: shipper.lag_bytes == 0)

    refused = caplog.text.count("sink: rejected")
    assert sorted(sink.lines) == sorted(lines if refused == 0 else lines[:7] + lines[8:])
    assert len({batch.id for batch, _placement in sink.sent}) == len(sink.sent)


async def test_the_split_is_on_disk_before_a_part_is_sent(tmp_path, log):
    """What is still to be sent stands in the cursor, the part that is being sent first."""
    seen = []

    class Witness(LastIdSink):
        async def send(self, batch: Batch, placement: Placement) -> None:
            cursor = kept(tmp_path)
            seen.append((batch.id, cursor.in_hand.batch_id, cursor.in_hand.parts))
            await super().send(batch, placement)

    append_batch(log, *range(4))
    async with shipping(tmp_path, log, Witness(0)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)

    whole = seen[0][0]
    assert [batch_id for _id, batch_id, _parts in seen] == [whole] * len(seen)
    assert [list(map(expand, parts)) for _id, _batch_id, parts in seen] == [
        [],
        [[0, 1], [2, 3]],
        [[0], [1], [2, 3]],
        [[1], [2, 3]],
        [[2, 3]],
    ]
    assert all(part_id.startswith(f"{whole}-") for part_id, _batch_id, _parts in seen[1:])


async def test_only_the_last_part_says_that_all_is_delivered(tmp_path, log):
    """A sink that keeps the ends has them when the whole batch is there, and not before.

    Until then it is told again what was there before.
    """
    start = log.end
    append_batch(log, *range(3))
    sink = LastIdSink(1)
    async with shipping(tmp_path, log, sink) as shipper:
        await until(lambda: shipper.lag_bytes == 0)

    *before, last = [batch.ends for batch, _placement in sink.sent]
    assert before == [{log.id: (start, 0)}]
    assert last == {log.id: (log.end, 0)}


async def test_a_split_that_fits_no_more_is_sent_whole(tmp_path, log):
    """Where a filter was changed meanwhile, its numbers would be those of other events."""
    append_batch(log, *range(10))
    sink = LastIdSink(7, takes=0)
    async with shipping(tmp_path, log, sink, grace_s=0):
        await until(lambda: sink.sent)
    cursor = kept(tmp_path)
    parts = cursor.in_hand._replace(events=9)
    sink = LastIdSink()
    async with shipping(
        tmp_path, log, sink, inherit=of(Cursor(cursor.spans, cursor.placement, parts))
    ) as shipper:
        await until(lambda: shipper.lag_bytes == 0)

    assert [batch.id for batch, _placement in sink.sent] == [cursor.in_hand.batch_id]


def of(cursor):
    return lambda _kept: of_own_cursor(cursor)


@given(st.sets(st.integers(0, 5_000), min_size=2), st.sets(st.integers(0, 3_000)))
def test_a_split_loses_and_doubles_nothing(numbers, indexes):
    """Refused ones and parts are the whole again, and each part fits into a cursor."""
    numbers = sorted(numbers)
    refused, parts = split(numbers, sorted(indexes))
    assert sorted([*refused, *(number for part in parts for number in part)]) == numbers
    assert all(part == expand(compress(part)) for part in parts)


def test_parts_never_outgrow_the_cursor():
    """However many events a sink names, what is left to be sent is said in few ranges."""
    numbers = list(range(10 * RANGES_MAX))
    todo, sizes = [numbers], []
    while todo:
        part = todo.pop(0)
        bad = [index for index, number in enumerate(part) if number % 2]
        if bad:
            todo[:0] = split(part, bad)[1]
        sizes.append(sum(len(compress(part)) for part in todo))
    assert max(sizes) <= RANGES_MAX + 20
