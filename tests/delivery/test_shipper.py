"""The shipper: order, boundaries that survive a restart, retries, rejections and its end."""

import asyncio
import json
import random
import shutil

import pytest

from segsrv.delivery import shipper as shipper_module
from segsrv.errors import SinkRejected, SinkUnavailable
from segsrv.journal import cursor as cursors
from segsrv.journal.cursor import Cursor, CursorUnreadable
from segsrv.journal.frame import HEADER_BYTES
from segsrv.sinks.base import Batch, Placement
from tests.delivery.shipping import MemorySink, append, make_shipper, open_log, shipping
from tests.waiting import DEADLINE_S, until


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch):
    monkeypatch.setattr(shipper_module, "RETRY_S_MIN", 0.001)


@pytest.fixture
def log(tmp_path):
    log = open_log(tmp_path)
    yield log
    log.close()


def letters(directory):
    files = sorted((directory / "dead-letter").glob("*.ndjson"))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def told(sent: list[tuple[Batch, Placement]]) -> list[tuple[str, bytes, Placement]]:
    """Return what a sink can tell batches by."""
    return [(batch.id, batch.content, placement) for batch, placement in sent]


class StuckSink(MemorySink):
    """Takes a batch in hand and never ends, as a connection that hangs does."""

    def __init__(self) -> None:
        super().__init__()
        self.in_hand: list[tuple[Batch, Placement]] = []

    async def send(self, batch: Batch, placement: Placement) -> None:
        self.in_hand.append((batch, placement))
        await asyncio.Event().wait()


class TestOrder:
    async def test_everything_arrives_in_order(self, tmp_path, log):
        """What is there at the start and what comes while it runs arrives once, in order."""
        sink = MemorySink()
        lines = append(log, *range(10))
        async with shipping(tmp_path, log, sink) as shipper:
            for number in range(10, 20):
                lines += append(log, number)
                shipper.wake()
                await until(lambda: shipper.lag_bytes == 0)
                assert sink.lines == lines
        assert shipper.stats.events == 20

    async def test_a_batch_is_bounded(self, tmp_path, log):
        """A backlog goes out in batches of no more than the limit, none empty."""
        lines = append(log, *range(50))
        sink = MemorySink()
        limit = 5 * (HEADER_BYTES + len(lines[-1]))
        async with shipping(tmp_path, log, sink, flush_bytes_max=limit):
            await until(lambda: sink.lines == lines)

        assert all(1 <= batch.events <= 6 for batch, _placement in sink.sent)
        assert len(sink.sent) >= 10

    async def test_frames_without_events_are_not_sent(self, tmp_path, log):
        """Probes leave no batch behind and hold nothing up."""
        sink = MemorySink()
        log.probe()
        async with shipping(tmp_path, log, sink) as shipper:
            await until(lambda: shipper.lag_bytes == 0)
            lines = append(log, 1)
            shipper.wake()
            await until(lambda: sink.lines == lines)

        assert len(sink.sent) == 1

    async def test_each_placement_follows_from_the_one_before(self, tmp_path, log):
        """A sink is shown its newest placement when it plans, after a restart too."""
        sink = MemorySink()
        for number in range(4):
            append(log, number)
            async with shipping(tmp_path, log, sink):
                pass

        assert [placement for _batch, placement in sink.sent] == [
            {"number": number} for number in (1, 2, 3, 4)
        ]

    async def test_damage_is_stepped_over(self, tmp_path, log):
        """A frame that the disk damaged is missing; all others are delivered."""
        lines = append(log, *range(5))
        path = log.segments[0].path
        data = bytearray(path.read_bytes())
        data[data.index(lines[2])] ^= 0xFF
        path.write_bytes(data)
        sink = MemorySink()
        async with shipping(tmp_path, log, sink, flush_bytes_max=1):
            await until(lambda: len(sink.lines) == 4)

        assert sink.lines == [*lines[:2], *lines[3:]]
        assert log.damaged_frames == 1

    async def test_a_removed_file_is_stepped_over(self, tmp_path):
        """When a cleaner took one of the journal's files, what lies behind it is delivered."""
        log = open_log(tmp_path, segment_bytes_max=1)
        try:
            lines = append(log, *range(3))
            log.segments[1].path.unlink()
            sink = MemorySink()
            async with shipping(tmp_path, log, sink) as shipper:
                await until(lambda: shipper.lag_bytes == 0)

            assert sink.lines == [lines[0], lines[2]]
        finally:
            log.close()


class TestRestart:
    async def test_the_batch_in_hand_is_sent_again_as_it_was(self, tmp_path, log):
        """After a crash while sending, the same range goes out again under the same placement."""
        append(log, 1, 2, 3)
        stuck = StuckSink()
        async with shipping(tmp_path, log, stuck, grace_s=0):
            await until(lambda: stuck.in_hand)
        append(log, 4, 5)

        sink = MemorySink()
        async with shipping(tmp_path, log, sink):
            await until(lambda: len(sink.lines) == 5)

        assert told(sink.sent[:1]) == told(stuck.in_hand)
        assert [batch.events for batch, _placement in sink.sent] == [3, 2]

    async def test_also_when_the_batch_size_was_changed(self, tmp_path, log):
        """A smaller limit does not cut a batch that may be half delivered already."""
        append(log, *range(9))
        stuck = StuckSink()
        async with shipping(tmp_path, log, stuck, grace_s=0):
            await until(lambda: stuck.in_hand)

        sink = MemorySink()
        async with shipping(tmp_path, log, sink, flush_bytes_max=1):
            await until(lambda: sink.sent)

        assert told(sink.sent) == told(stuck.in_hand)

    async def test_the_range_is_on_disk_before_it_is_sent(self, tmp_path, log):
        """What a sink gets is written down first, with the placement that it planned."""
        seen: list[tuple[Cursor | None, Batch, Placement]] = []

        class Witness(MemorySink):
            async def send(self, batch: Batch, placement: Placement) -> None:
                kept = cursors.load(tmp_path / "state" / "test.json")
                seen.append((kept, batch, placement))

        append(log, 1, 2)
        async with shipping(tmp_path, log, Witness()):
            await until(lambda: seen)

        cursor, batch, placement = seen[0]
        assert cursor.placement == placement
        assert log.read(cursor.start, bytes_max=1, end=cursor.end).lines == batch.content

    async def test_what_is_delivered_is_not_sent_again(self, tmp_path, log):
        """A restart after an orderly end begins behind the last delivered batch."""
        append(log, 1, 2)
        async with shipping(tmp_path, log, MemorySink()):
            pass

        sink = MemorySink()
        lines = append(log, 3)
        async with shipping(tmp_path, log, sink):
            pass

        assert sink.lines == lines

    async def test_a_planned_range_that_the_journal_lost_holds_nothing_up(self, tmp_path, log):
        """When the journal lost what was being sent, delivery goes on with what came after."""
        append(log, 1)
        stuck = StuckSink()
        async with shipping(tmp_path, log, stuck, grace_s=0):
            await until(lambda: stuck.in_hand)
        end = log.end
        log.close()
        shutil.rmtree(tmp_path / "journal")
        sink = MemorySink()
        log = open_log(tmp_path, position_min=end)
        try:
            lines = append(log, 2)
            async with shipping(tmp_path, log, sink):
                await until(lambda: sink.lines == lines)
        finally:
            log.close()

    async def test_an_unreadable_cursor_is_a_clear_error(self, tmp_path, log):
        """Delivery never starts from a guess: the error names the file."""
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "test.json").write_text("{")

        with pytest.raises(CursorUnreadable, match=r"test\.json is not a cursor"):
            make_shipper(tmp_path, log, MemorySink())


class TestRetry:
    @pytest.mark.parametrize(
        "fault", [SinkUnavailable("down"), RuntimeError("surprise"), OSError(5, "I/O error")]
    )
    @pytest.mark.parametrize("step", ["open_faults", "plan_faults", "send_faults"])
    async def test_it_goes_on_until_the_sink_takes_it(self, tmp_path, log, step, fault):
        """Whatever a sink raises at whatever step, nothing is skipped, doubled or reordered."""
        sink = MemorySink()
        getattr(sink, step).extend([fault] * 5)
        lines = append(log, 1, 2, 3)
        async with shipping(tmp_path, log, sink) as shipper:
            await until(lambda: sink.lines == lines)

            assert shipper.stats.retries == 5
            assert not shipper.is_failing
        assert sink.calls == (6 if step == "send_faults" else 1)

    async def test_the_waits_grow_to_their_limit(self, tmp_path, log, monkeypatch):
        """Each wait is twice the one before, with jitter, and none is above the limit."""
        monkeypatch.setattr(shipper_module, "RETRY_S_MIN", 1.0)
        waits: list[tuple[float, float]] = []
        monkeypatch.setattr(random, "uniform", lambda low, high: waits.append((low, high)) or high)
        delays: list[float] = []
        sleep = asyncio.sleep

        async def note(delay_s: float) -> None:
            delays.append(delay_s)
            await sleep(0)

        sink = MemorySink()
        is_sent = asyncio.Event()
        sink.send_faults.extend([SinkUnavailable("down")] * 6)
        append(log, 1)
        monkeypatch.setattr(asyncio, "sleep", note)
        async with shipping(tmp_path, log, sink, retry_s_max=10.0) as shipper:
            shipper.on_advance = _setter(is_sent)
            async with asyncio.timeout(DEADLINE_S):
                await is_sent.wait()

        assert delays == [1, 2, 4, 8, 10, 10]
        assert set(waits) == {(0.5, 1.0)}

    async def test_a_failing_sink_is_marked(self, tmp_path, log):
        """While a sink is down that can be seen, with the journal's lag."""
        sink = MemorySink()
        sink.send_faults.extend([SinkUnavailable("down")] * 10_000)
        append(log, 1)
        async with shipping(tmp_path, log, sink) as shipper:
            await until(lambda: shipper.is_failing)
            assert shipper.lag_bytes == log.end
            sink.send_faults.clear()
            await until(lambda: not shipper.is_failing)

    async def test_a_cursor_that_cannot_be_saved_is_retried(
        self, tmp_path, log, monkeypatch, caplog
    ):
        """A full disk below the cursors delays delivery and doubles nothing that succeeded."""
        faults = [OSError(28, "No space left on device")] * 3
        save = cursors.save

        def fail_first(*arguments) -> None:
            if faults:
                raise faults.pop()
            save(*arguments)

        monkeypatch.setattr(cursors, "save", fail_first)
        sink = MemorySink()
        lines = append(log, 1)
        async with shipping(tmp_path, log, sink):
            await until(lambda: sink.lines == lines)

        assert sink.calls == 1
        assert "No space left on device" in caplog.text
        assert not any(record.exc_info for record in caplog.records), "it is no surprise"

    async def test_a_removed_journal_moves_no_cursor(self, tmp_path, log):
        """Whoever began again in the directory has cursors of his own below it."""
        sink = MemorySink()
        sink.send_faults.extend([SinkUnavailable("down")] * 100_000)
        append(log, 1)
        async with shipping(tmp_path, log, sink, grace_s=0) as shipper:
            await until(lambda: sink.calls)
            shutil.rmtree(tmp_path / "journal")
            other = open_log(tmp_path)
            path = tmp_path / "state" / "test.json"
            cursors.save(path, Cursor(0, 0))
            sink.send_faults.clear()
            await until(lambda: sink.sent)
            retries = shipper.stats.retries
            await until(lambda: shipper.stats.retries > retries + 2)

            assert cursors.load(path) == Cursor(0, 0)
            other.close()

    async def test_a_failing_release_does_not_end_delivery(self, tmp_path, log):
        """What happens to the journal after a delivery can't stop the next one."""

        async def fail() -> None:
            raise OSError(30, "Read-only file system")

        sink = MemorySink()
        lines = append(log, 1)
        async with shipping(tmp_path, log, sink) as shipper:
            shipper.on_advance = fail
            await until(lambda: sink.lines == lines)
            lines += append(log, 2)
            shipper.wake()
            await until(lambda: sink.lines == lines)


class TestRejection:
    async def test_the_batch_becomes_dead_letters_and_delivery_goes_on(self, tmp_path, log):
        """Every event of a refused batch is kept with the reason; the next batch is sent."""
        sink = MemorySink()
        sink.send_faults.append(SinkRejected("table is gone"))
        append(log, 1, 2)
        async with shipping(tmp_path, log, sink) as shipper:
            await until(lambda: shipper.stats.rejected_events == 2)
            await until(lambda: shipper.lag_bytes == 0)
            lines = append(log, 3)
            shipper.wake()
            await until(lambda: sink.lines == lines)

            assert not shipper.is_failing
        assert [letter | {"time": ""} for letter in letters(tmp_path)] == [
            {
                "time": "",
                "reason": "sink_rejected",
                "message": "table is gone",
                "sink": "test",
                "item": {"n": number},
            }
            for number in (1, 2)
        ]

    async def test_after_a_few_tries_too(self, tmp_path, log):
        """A sink that comes back only to refuse is believed."""
        sink = MemorySink()
        sink.send_faults.extend([SinkUnavailable("down"), SinkRejected("no")])
        append(log, 1)
        async with shipping(tmp_path, log, sink) as shipper:
            await until(lambda: shipper.lag_bytes == 0)

        assert [letter["item"] for letter in letters(tmp_path)] == [{"n": 1}]

    async def test_the_cursor_waits_for_the_dead_letters(self, tmp_path, log, caplog):
        """While dead letters can't be written, the batch stays in the journal."""
        blocker = tmp_path / "dead-letter"
        blocker.write_text("in the way")
        sink = MemorySink()
        sink.send_faults.append(SinkRejected("no"))
        append(log, 1)
        async with shipping(tmp_path, log, sink) as shipper:
            await until(lambda: shipper.stats.retries >= 2)
            assert shipper.position == 0
            blocker.unlink()
            await until(lambda: shipper.lag_bytes == 0)

        assert [letter["item"] for letter in letters(tmp_path)] == [{"n": 1}]
        assert "dead letters can't be written" in caplog.text
        assert not any(record.exc_info for record in caplog.records), "it is no surprise"


class TestStop:
    async def test_what_is_committed_is_delivered(self, tmp_path, log):
        """A stop delivers all that the journal holds, and closes the sink."""
        sink = MemorySink()
        async with shipping(tmp_path, log, sink, flush_bytes_max=1):
            lines = append(log, *range(20))

        assert sink.lines == lines
        assert not sink.is_open

    async def test_it_does_not_wait_for_a_fuller_batch(self, tmp_path, log):
        """A long flush interval is cut short by a stop, the events still go out."""
        sink = MemorySink()
        lines = append(log, 1)
        async with shipping(tmp_path, log, sink, flush_interval_s=1_000.0):
            await until(lambda: sink.is_open)

        assert sink.lines == lines

    @pytest.mark.parametrize("sink", [StuckSink(), MemorySink()], ids=["stuck", "down"])
    async def test_it_ends_when_the_grace_is_over(self, tmp_path, log, sink):
        """A sink that hangs or is down does not hold up the end; its events stay."""
        sink.send_faults.extend([SinkUnavailable("down")] * 100_000)
        append(log, 1)
        async with asyncio.timeout(DEADLINE_S):
            async with shipping(tmp_path, log, sink, grace_s=0.05) as shipper:
                await until(lambda: sink.calls or getattr(sink, "in_hand", None))

        assert shipper.position == 0
        kept = cursors.load(tmp_path / "state" / "test.json")
        assert (kept.start, kept.end) == (0, log.end)


def _setter(event: asyncio.Event):
    async def set_it() -> None:
        event.set()

    return set_it
