"""Sinks that keep positions: delivery goes on behind what they have, but never loses for it."""

import shutil

import pytest

from segsrv.delivery.believing import stood_at
from segsrv.errors import SinkRejected, SinkUnavailable
from segsrv.sinks.base import Batch, Delivered, Placement
from tests.delivery.shipping import (
    MemorySink,
    append,
    append_batch,
    cursor_path,
    open_log,
    shipping,
)
from tests.waiting import until


class PositionSink(MemorySink):
    """Keeps a batch's id and its ends together with the events, as one transaction does."""

    def __init__(self, last: Delivered | None = None) -> None:
        super().__init__()
        self.last = last or Delivered("", {})

    async def send(self, batch: Batch, placement: Placement) -> None:
        await super().send(batch, placement)
        self.last = Delivered(batch.id, batch.ends)

    async def delivered(self) -> Delivered:
        assert self.is_open
        return self.last


@pytest.fixture
def log(tmp_path):
    log = open_log(tmp_path)
    yield log
    log.close()


def believing(log):
    return {"is_ours": lambda _name, *moment: stood_at(log.directory, *moment)}


async def test_nothing_is_stored_twice_when_the_cursor_is_lost(tmp_path, log):
    """The sink's own word counts where the cursor says less."""
    lines = append(log, 1, 2)
    sink = PositionSink()
    async with shipping(tmp_path, log, sink, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    cursor_path(tmp_path).unlink()
    lines += append(log, 3)

    async with shipping(tmp_path, log, sink, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    assert sink.lines == lines


async def test_the_batch_in_hand_is_not_sent_again_if_it_is_stored(tmp_path, log):
    """Ended before it knew, delivery learns from the sink that the batch is there."""

    class Silent(PositionSink):
        async def send(self, batch: Batch, placement: Placement) -> None:
            await super().send(batch, placement)
            raise OSError("the answer was cut off")

    lines = append(log, 1)
    silent = Silent()
    async with shipping(tmp_path, log, silent, grace_s=0):
        await until(lambda: silent.sent)
    lines += append(log, 2)
    sink = PositionSink(silent.last)
    async with shipping(tmp_path, log, sink, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    assert sink.lines == lines[1:]


async def test_a_directory_that_was_put_back_loses_nothing(tmp_path, log, caplog):
    """The sink has had other events at these positions; those that are there now still go out."""
    append(log, 1)
    sink = PositionSink()
    async with shipping(tmp_path, log, sink, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    log.close()
    backup = tmp_path / "backup"
    shutil.copytree(log.directory, backup)
    shutil.copytree(cursor_path(tmp_path).parent, tmp_path / "cursors")
    log = open_log(tmp_path)
    append(log, 2, 3, 4)
    async with shipping(tmp_path, log, sink, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    log.close()

    for kept, place in (
        (backup, log.directory),
        (tmp_path / "cursors", cursor_path(tmp_path).parent),
    ):
        shutil.rmtree(place)
        kept.rename(place)
    log = open_log(tmp_path)
    lines = append(log, 5, 6, 7, 8, 9)
    other = PositionSink(sink.last)
    async with shipping(tmp_path, log, other, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    assert other.lines == lines
    assert "of another past" in caplog.text
    assert {batch.id for batch, _placement in other.sent}.isdisjoint(
        batch.id for batch, _placement in sink.sent
    )
    log.close()


async def test_positions_of_another_journal_mean_nothing(tmp_path, log):
    """A sink that served another data directory before says nothing about this one."""
    lines = append(log, 1)
    sink = PositionSink(Delivered("01a211f37004-x", {"f" * 32: (1 << 40, 0)}))
    async with shipping(tmp_path, log, sink, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    assert sink.lines == lines


async def test_a_directory_that_was_put_back_loses_nothing_to_a_split(tmp_path, log):
    """What the sink had of another past is not taken for what is there now, whatever comes first.

    A batch that is split has brought its first part when delivery ends.
    """
    append(log, 1)
    sink = PositionSink()
    async with shipping(tmp_path, log, sink, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    log.close()
    places = (log.directory, cursor_path(tmp_path).parent)
    for place in places:
        shutil.copytree(place, tmp_path / "backup" / place.name)
    log = open_log(tmp_path)
    append(log, 2, 3, 4)
    async with shipping(tmp_path, log, sink, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    log.close()
    for place in places:
        shutil.rmtree(place)
        (tmp_path / "backup" / place.name).rename(place)
    log = open_log(tmp_path)
    lines = append_batch(log, 5, 6, 7, 8, 9)

    class Splitting(PositionSink):
        is_gone = False

        async def send(self, batch: Batch, placement: Placement) -> None:
            if batch.events == 5:
                raise SinkRejected("find out which")
            if self.sent:
                self.is_gone = True
                raise SinkUnavailable("gone")
            await super().send(batch, placement)

    first = Splitting(sink.last)
    async with shipping(tmp_path, log, first, grace_s=0, **believing(log)):
        # The cursor says by then that the first part is done; this sink knows no batch again.
        await until(lambda: first.is_gone)
    lines += append(log, *range(10, 20))
    second = PositionSink(first.last)
    async with shipping(tmp_path, log, second, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    assert first.lines + second.lines == lines
    log.close()


async def test_a_part_of_a_split_batch_still_tells_what_came_before_it(tmp_path, log):
    """So nothing that was stored before comes again when the cursor is lost in mid-split."""
    lines = append(log, 1, 2)
    sink = PositionSink()
    async with shipping(tmp_path, log, sink, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    append_batch(log, 3, 4)

    class Splitting(PositionSink):
        async def send(self, batch: Batch, placement: Placement) -> None:
            if batch.events == 2:
                raise SinkRejected("find out which")
            if self.sent:
                raise SinkUnavailable("gone")
            await super().send(batch, placement)

    splitting = Splitting(sink.last)
    async with shipping(tmp_path, log, splitting, grace_s=0, **believing(log)):
        await until(lambda: splitting.sent)
    cursor_path(tmp_path).unlink()
    after = PositionSink(splitting.last)
    async with shipping(tmp_path, log, after, **believing(log)) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    assert not set(after.lines) & set(lines)


async def test_a_batch_says_where_every_journal_stands(tmp_path, log):
    """Also where none of its events are from: a sink keeps the newest ends alone."""
    other = open_log(tmp_path / "other")
    try:
        append(log, 1)
        sink = PositionSink()
        async with shipping(tmp_path, log, sink, others=[other]) as shipper:
            await until(lambda: shipper.lag_bytes == 0)
            append(other, 2)
            shipper.wake()
            await until(lambda: len(sink.sent) == 2)
        assert sink.last.ends == {log.id: (log.end, 0), other.id: (other.end, 0)}
    finally:
        other.close()
