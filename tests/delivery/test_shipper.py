"""The shipper: order, boundaries that survive a restart, retries, rejections and its end."""

import asyncio
import json
import random
import shutil
import time
from contextlib import closing, nullcontext
from datetime import datetime

import pytest

from segsrv.delivery import attempts
from segsrv.delivery.cursor import Cursor, CursorFile, Mark, Span
from segsrv.delivery.dedup import DedupIndex
from segsrv.delivery.judging import Judge
from segsrv.errors import SinkRejected, SinkUnavailable
from segsrv.journal.frame import HEADER_BYTES
from segsrv.sinks.base import Batch, Placement
from tests.delivery.shipping import (
    RECEIVED_MS,
    MemorySink,
    append,
    append_batch,
    cursor_path,
    kept,
    open_log,
    shipping,
)
from tests.waiting import DEADLINE_S, until


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch):
    monkeypatch.setattr(attempts, "RETRY_S_MIN", 0.001)


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

    async def test_what_a_full_batch_left_does_not_wait_for_more(self, tmp_path, log):
        """A batch of few events would else be all that an interval brings."""
        lines = append_batch(log, *range(100))
        sink = MemorySink()
        async with shipping(tmp_path, log, sink, flush_events_max=1, flush_interval_s=0.5):
            await until(lambda: sink.lines == lines)

    async def test_a_journal_that_is_never_empty_holds_no_other_up(self, tmp_path, log):
        """Where a batch has no room for all journals, each has its turn."""
        other = open_log(tmp_path / "other")
        with closing(other):
            append_batch(log, *range(20))
            lines = append_batch(other, 100, 101, 102)
            sink = MemorySink()
            async with shipping(tmp_path, log, sink, others=[other], flush_events_max=1):
                await until(lambda: len(sink.lines) == 23)
        assert [line for line in sink.lines[:6] if line in lines] == lines

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
                seen.append((kept(tmp_path), batch, placement))

        append(log, 1, 2)
        async with shipping(tmp_path, log, Witness()):
            await until(lambda: seen)

        cursor, batch, placement = seen[0]
        assert cursor.placement == placement
        assert cursor.spans == {"w0": Span(log.id, Mark(0), Mark(log.end))}
        assert batch.events == 2

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

    async def test_a_damaged_cursor_means_again_what_is_held(self, tmp_path, log, caplog):
        """Delivery never goes on from a guess: what the journal has goes out once more."""
        lines = append(log, 1, 2)
        async with shipping(tmp_path, log, MemorySink()):
            pass
        cursor_path(tmp_path).write_bytes(b"{")

        sink = MemorySink()
        async with shipping(tmp_path, log, sink):
            pass
        assert sink.lines == lines
        assert "delivering again what is held" in caplog.text

    async def test_the_older_slot_counts_when_the_newest_is_damaged(self, tmp_path, log):
        """Nothing is lost when one of the two is unreadable, and at most a batch comes again."""
        lines = append(log, 1)
        async with shipping(tmp_path, log, MemorySink()):
            pass
        lines += append(log, 2)
        async with shipping(tmp_path, log, MemorySink()):
            pass
        path = cursor_path(tmp_path)
        data = bytearray(path.read_bytes())
        data[data.rindex(b'"journals"')] ^= 0xFF
        path.write_bytes(data)

        sink = MemorySink()
        async with shipping(tmp_path, log, sink):
            pass
        assert b"".join(lines).endswith(b"".join(sink.lines))


class TestSetAside:
    @pytest.mark.parametrize("fault", [None, OSError("full")])
    async def test_where_nothing_was_the_batch_in_hand_is_sent_as_it_was(
        self, tmp_path, log, fault
    ):
        """What came of it is not known: under another id it could be stored twice."""

        def move(_marks):
            if fault is not None:
                raise fault
            return {}

        append(log, 1, 2)
        sink = StuckSink()
        async with shipping(tmp_path, log, sink, grace_s=0) as shipper:
            await until(lambda: sink.in_hand)
            append(log, 3)
            with pytest.raises(OSError, match="full") if fault else nullcontext():
                await shipper.set_aside(move)
            await until(lambda: len(sink.in_hand) == 2)
        first, again = told(sink.in_hand)
        assert again == first


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

            assert shipper.failures == 5
            assert not shipper.is_failing
        assert sink.calls == (6 if step == "send_faults" else 1)

    async def test_a_rejection_where_none_is_due_is_tried_again(self, tmp_path, log):
        """A sink that refuses to be opened, or to plan, ends no delivery and loses nothing."""
        sink = MemorySink()
        sink.open_faults.append(SinkRejected("no"))
        sink.plan_faults.append(SinkRejected("no"))
        lines = append(log, 1)
        async with shipping(tmp_path, log, sink):
            await until(lambda: sink.lines == lines)
        assert not letters(tmp_path)

    async def test_a_placement_that_is_too_large_is_said(self, tmp_path, log):
        """It would not fit the cursor; the sink is named as misconfigured, with the limit."""

        class Talkative(MemorySink):
            async def plan(self, _batch: Batch, _last: Placement) -> Placement:
                return {"text": "x" * 20_000}

        append(log, 1)
        async with shipping(tmp_path, log, Talkative(), grace_s=0) as shipper:
            await until(lambda: shipper.state == "misconfigured")
            assert "the limit is 16384" in shipper.message

    async def test_a_sink_that_never_answers_is_asked_again(self, tmp_path, log):
        """A time-out means unknown: the same batch goes out again under the same id."""

        class Slow(MemorySink):
            async def send(self, batch: Batch, placement: Placement) -> None:
                await super().send(batch, placement)
                if self.calls < 3:
                    await asyncio.Event().wait()

        sink = Slow()
        append(log, 1, 2)
        async with shipping(tmp_path, log, sink, timeout_s=0.05) as shipper:
            await until(lambda: shipper.lag_bytes == 0)
        assert len(sink.sent) == 3
        assert len(set(map(str, told(sink.sent)))) == 1

    async def test_an_unexpected_error_shows_no_secret(self, tmp_path, log, caplog):
        """What a driver raises may quote a URL; the log and /ready say the kind and the place."""
        sink = MemorySink()
        sink.send_faults.extend([ValueError("http://user:hunter2@host")] * 2)
        append(log, 1)
        async with shipping(tmp_path, log, sink) as shipper:
            await until(lambda: shipper.lag_bytes == 0)
        assert "unexpected ValueError at " in caplog.text
        assert "hunter2" not in caplog.text

    async def test_the_waits_grow_to_their_limit(self, tmp_path, log, monkeypatch):
        """Each wait is twice the one before, with jitter, and none is above the limit."""
        monkeypatch.setattr(attempts, "RETRY_S_MIN", 1.0)
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
            shipper.on_advance = is_sent.set
            async with asyncio.timeout(DEADLINE_S):
                await is_sent.wait()

        assert delays == [1, 2, 4, 8, 10, 10]
        assert set(waits) == {(0.5, 1.0)}

    async def test_how_long_events_wait_for_a_sink_that_never_opened(self, tmp_path, log):
        """That is known though no batch was read, also of events that come while it is down."""
        sink = MemorySink()
        sink.open_faults.extend([SinkUnavailable("down")] * 10_000)
        async with shipping(tmp_path, log, sink) as shipper:
            await until(lambda: shipper.is_failing)
            assert shipper.lag_s == 0
            append(log, 1)
            await until(lambda: shipper.lag_s > 0)
            assert shipper.lag_s == pytest.approx(time.time() - RECEIVED_MS / 1_000, abs=60)
            sink.open_faults.clear()
            await until(lambda: sink.lines and shipper.lag_s == 0)

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
        """A disk that refuses cursors delays delivery and doubles nothing that succeeded."""
        faults = [OSError(28, "No space left on device")] * 3
        save = CursorFile.save

        def fail_first(*arguments) -> None:
            if faults:
                raise faults.pop()
            save(*arguments)

        monkeypatch.setattr(CursorFile, "save", fail_first)
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
            shutil.rmtree(tmp_path / "state")
            other = open_log(tmp_path)
            theirs = CursorFile(cursor_path(tmp_path))
            theirs.save(Cursor())
            sink.send_faults.clear()
            await until(lambda: sink.sent)
            failures = shipper.failures
            await until(lambda: shipper.failures > failures + 2)

            assert kept(tmp_path) == Cursor()
            theirs.close()
            other.close()


class PickySink(MemorySink):
    """Refuses batches that hold one of these numbers, and says which if it *names* them."""

    def __init__(self, *numbers: int, names: bool = False) -> None:
        super().__init__()
        self.bad = {b'{"n":%d}\n' % number for number in numbers}
        self.names = names
        self.ids: list[str] = []

    async def send(self, batch: Batch, placement: Placement) -> None:
        self.calls += 1
        self.ids.append(batch.id)
        bad = [index for index, line in enumerate(batch.lines()) if line in self.bad]
        if bad:
            raise SinkRejected("bad number", indexes=bad if self.names else ())
        self.sent.append((batch, placement))


class TestRejection:
    @pytest.mark.parametrize("names", [False, True], ids=["searched", "named"])
    async def test_only_the_culprits_become_dead_letters(self, tmp_path, log, names):
        """What a sink refuses is found in few steps and kept; all others arrive, in order."""
        sink = PickySink(3, 70, names=names)
        lines = append_batch(log, *range(100))
        async with shipping(tmp_path, log, sink) as shipper:
            await until(lambda: shipper.lag_bytes == 0)
            assert not shipper.is_failing

        assert sink.lines == [line for line in lines if line not in sink.bad]
        assert [letter["item"] for letter in letters(tmp_path)] == [{"n": 3}, {"n": 70}]
        assert sink.calls <= (2 if names else 2 * 2 * 7 + 1)
        assert len(set(sink.ids)) == len(sink.ids)
        assert shipper.stats.events == 98

    async def test_a_letter_says_what_is_known(self, tmp_path, log):
        """Time, reason, sink, key and format stand beside the refused event."""
        sink = MemorySink()
        sink.send_faults.append(SinkRejected("table is gone"))
        append(log, 1)
        async with shipping(tmp_path, log, sink) as shipper:
            await until(lambda: shipper.rejects.events == 1)
            lines = append(log, 2)
            shipper.wake()
            await until(lambda: sink.lines == lines)

        (letter,) = letters(tmp_path)
        assert datetime.fromisoformat(letter.pop("time")).tzinfo is not None
        assert letter == {
            "reason": "sink_rejected",
            "message": "table is gone",
            "sink": "test",
            "key_id": "web",
            "format": "flat",
            "item": {"n": 1},
        }

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
            await until(lambda: shipper.failures >= 2)
            assert shipper.lag_bytes == log.end
            blocker.unlink()
            await until(lambda: shipper.lag_bytes == 0)

        assert [letter["item"] for letter in letters(tmp_path)] == [{"n": 1}]
        assert "dead letters can't be written" in caplog.text
        assert not any(record.exc_info for record in caplog.records), "it is no surprise"


class TestDuplicates:
    async def test_what_is_being_sent_is_judged_again_as_it_was(self, tmp_path, log):
        """An index that is full forgets nothing that the batch in hand was judged by."""

        def judge() -> Judge:
            return Judge(60, lambda: DedupIndex(tmp_path / "dedup", window_s=1e6, ids_max=60))

        append_batch(log, *range(60))
        async with shipping(tmp_path, log, MemorySink(), judge=judge()):
            pass
        append_batch(log, 0, *range(100, 115))
        stuck = StuckSink()
        async with shipping(tmp_path, log, stuck, grace_s=0, judge=judge()):
            await until(lambda: stuck.in_hand)
        sink = MemorySink()
        async with shipping(tmp_path, log, sink, judge=judge()):
            pass

        assert told(sink.sent) == told(stuck.in_hand)
        assert [batch.events for batch, _placement in sink.sent] == [15]

    async def test_the_index_is_settled_under_a_load_without_end(self, tmp_path, log):
        """It forgets what is over its capacity also if there never is nothing to deliver."""
        judge = Judge(60, lambda: DedupIndex(tmp_path / "dedup", window_s=1e6, ids_max=60))
        append(log, *range(600))
        sink = MemorySink()
        settled: list[int] = []
        settle, judge.settle = judge.settle, lambda: (settled.append(len(sink.sent)), settle())
        options = {"flush_events_max": 3, "judge": judge}
        async with shipping(tmp_path, log, sink, **options) as shipper:
            await until(lambda: shipper.lag_bytes == 0)
        assert len([count for count in settled if 0 < count < 200]) > 20
        assert len(sink.lines) == 600


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
            async with shipping(tmp_path, log, sink, grace_s=0.05):
                await until(lambda: sink.calls or getattr(sink, "in_hand", None))

        assert kept(tmp_path).spans == {"w0": Span(log.id, Mark(0), Mark(log.end))}
