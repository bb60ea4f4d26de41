"""Group commit: who shares a commit, what a failure costs, and what memory durability keeps.

The log's thread is held at a gate, so that what happens during a commit is decided by the test.
"""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segsrv.errors import BadRequest, JournalFault, JournalFull, ShuttingDown, Unavailable
from segsrv.journal import facts, group_commit
from segsrv.journal.facts import Run
from segsrv.journal.group_commit import GroupCommit
from segsrv.journal.log import SegmentLog
from tests.journal.segment_logs import committing, drain, journal_files, opened
from tests.waiting import DEADLINE_S, until

MIB = 1 << 20


class GatedLog(SegmentLog):
    """A segment log that waits before each append, and fails on demand.

    `started` counts the appends that began, probes included; `owners` are the threads that changed
    something or asked the disk.
    """

    def __init__(self, directory: Path) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = 0
        self.owners: set[int] = set()
        self.fault: Exception | None = None
        self.fault_once: Exception | None = None
        super().__init__(directory, segment_bytes_max=MIB, disk_free_bytes_min=0, is_synced=False)

    def append(self, payload: bytes, events: int, facts: bytes = b"") -> None:
        self.started += 1
        self.owners.add(threading.get_ident())
        assert self.gate.wait(DEADLINE_S), "nobody opened the gate"
        fault, self.fault_once = self.fault_once or self.fault, None
        if fault is not None:
            raise fault
        super().append(payload, events, facts)

    def check_space(self, size: int = 0) -> None:
        self.owners.add(threading.get_ident())
        super().check_space(size)

    def release(self, position: int, **options) -> bool:
        self.owners.add(threading.get_ident())
        return super().release(position, **options)

    def close(self) -> None:
        self.owners.add(threading.get_ident())
        super().close()


@asynccontextmanager
async def running(directory: Path, **limits: Any) -> AsyncIterator[tuple[GroupCommit, GatedLog]]:
    """Run a group commit with a gated log; *limits* are those of `committing`."""
    log = GatedLog(directory / "journal")
    commit = committing(log, directory, **limits)
    try:
        yield commit, log
    finally:
        log.gate.set()
        async with asyncio.timeout(DEADLINE_S):
            await commit.close()


@pytest.fixture(autouse=True)
def _probe_often(monkeypatch):
    monkeypatch.setattr(group_commit, "PROBE_INTERVAL_S", 0.01)


def put(
    commit: GroupCommit, lines: list[bytes], letters: list[bytes], run: bytes | None = None
) -> asyncio.Future[None]:
    """Submit events and return a future for what is told of them."""
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: Unavailable | None) -> None:
        if told.cancelled():
            return
        if error is None:
            told.set_result(None)
        else:
            told.set_exception(error)

    commit.submit(lines, letters, run, done)
    return told


async def bounded(waiter: asyncio.Future[None]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await waiter


async def held_commit(commit: GroupCommit, log: GatedLog) -> asyncio.Future[None]:
    """Start a commit of one event and return once it is held at the gate."""
    log.gate.clear()
    before = log.started
    waiter = put(commit, [b"first\n"], [])
    await until(lambda: log.started == before + 1)
    return waiter


class Wrapped:
    """Another object's attributes, but for those that a test replaces."""

    def __init__(self, inner: object, **replaced: object) -> None:
        self._inner = inner
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def small_disk(directory: Path, size: int):
    """Return an `fstatvfs` for a disk of *size* bytes that holds nothing but *directory*."""

    def fstatvfs(_fd: int) -> SimpleNamespace:
        used = sum(file.stat().st_size for file in journal_files(directory))
        return SimpleNamespace(f_frsize=1, f_bavail=max(size - used, 0))

    return fstatvfs


async def deliver_at_once(commit: GroupCommit, lines: list[bytes], *, retention_s: float) -> None:
    for line in lines:
        await bounded(put(commit, [line], []))
        await commit.release(commit.log.end, retention_s=retention_s)


def stored(directory: Path) -> list[bytes]:
    with opened(directory / "journal") as log:
        return drain(log)


class TestFacts:
    async def test_runs_go_down_with_their_lines(self, tmp_path):
        """The requests of a group keep their facts, each beside its own lines."""
        runs = [
            Run(
                key, "flat", number, "track", [3] * number, [f"{key}{one}" for one in range(number)]
            )
            for number, key in enumerate("abc", 1)
        ]
        async with running(tmp_path) as (commit, log):
            waiters = [
                put(commit, [b"%d1\n" % run.received_ms] * len(run.ids), [], facts.encode(run))
                for run in runs
            ]
            waiters.append(put(commit, [b"unknown\n"], []))
            waiters.append(put(commit, [], [b"bad\n"], facts.encode(runs[0])))
            for waiter in waiters:
                await bounded(waiter)

            (stored,) = log.read(0, bytes_max=1).frames

        assert stored.runs == [*runs, Run("", "", 0, "", [8], [""])]
        assert bytes(stored.payload) == b"11\n" + b"21\n" * 2 + b"31\n" * 3 + b"unknown\n"

    async def test_they_take_room(self, tmp_path):
        """What is known of events counts like their lines in every limit."""
        run = facts.encode(Run("k", "flat", 1, "track", [2], ["x" * 900]))
        async with running(tmp_path, pending_bytes_max=1_000) as (commit, log):
            first = await held_commit(commit, log)
            second = put(commit, [b"1\n"], [], run)
            assert commit.pending_bytes == len(b"first\n1\n") + len(run)
            with pytest.raises(JournalFull):
                put(commit, [b"1\n"], [], run)
            with pytest.raises(BadRequest, match="the events take 10"):
                put(commit, [b"x" * 99 + b"\n"], [], run)
            log.gate.set()
            await bounded(first)
            await bounded(second)


class TestSharing:
    async def test_requests_that_arrive_during_a_commit_share_the_next(self, tmp_path):
        """However many requests arrive while a commit runs, one more commit takes them all."""
        async with running(tmp_path) as (commit, log):
            first = await held_commit(commit, log)
            waiters = [put(commit, [b"%d\n" % number], []) for number in range(50)]
            assert not first.done()
            log.gate.set()
            for waiter in (first, *waiters):
                await bounded(waiter)

            assert (commit.stats.commits, commit.stats.events) == (2, 51)
            assert commit.pending_bytes == 0
        assert stored(tmp_path) == [b"first\n", *(b"%d\n" % number for number in range(50))]

    async def test_requests_of_one_turn_of_the_loop_share_a_commit(self, tmp_path):
        """Requests that are handled in the same turn go down together, even on an idle journal."""
        async with running(tmp_path) as (commit, _log):
            for waiter in [put(commit, [b"%d\n" % number], []) for number in range(5)]:
                await bounded(waiter)

            assert commit.stats.commits == 1

    async def test_a_waiter_is_not_told_before_its_commit_ended(self, tmp_path):
        """The second group waits for its own commit, not for the one that ran when it came."""
        async with running(tmp_path) as (commit, log):
            first = await held_commit(commit, log)
            second = put(commit, [b"second\n"], [])
            log.fault = JournalFault("down")
            log.gate.set()
            for waiter in (first, second):
                with pytest.raises(JournalFault):
                    await bounded(waiter)
            log.fault = None
        assert stored(tmp_path) == []

    async def test_the_next_begins_a_turn_later(self, tmp_path):
        """What comes of the answers to a commit still joins the one that waited behind it."""
        loop = asyncio.get_running_loop()
        async with running(tmp_path) as (commit, log):
            log.gate.clear()
            later: list[asyncio.Future[None]] = []

            def answered(_error: Unavailable | None) -> None:
                loop.call_soon(lambda: later.append(put(commit, [b"fourth\n"], [])))
                later.append(put(commit, [b"third\n"], []))

            commit.submit([b"first\n"], [], None, answered)
            await until(lambda: log.started == 1)
            second = put(commit, [b"second\n"], [])
            log.gate.set()
            await bounded(second)

            assert [waiter.done() for waiter in later] == [True, True]
            assert commit.stats.commits == 2
        assert stored(tmp_path) == [b"first\n", b"second\n", b"third\n", b"fourth\n"]

    @pytest.mark.parametrize("fault", [None, JournalFault("down")], ids=["stored", "refused"])
    async def test_each_request_is_told_once(self, tmp_path, caplog, fault):
        """On the loop, whatever another one does with what it is told."""
        told: list[tuple[int, Unavailable | None, int]] = []

        def tell(number: int, error: Unavailable | None) -> None:
            told.append((number, error, threading.get_ident()))
            if number % 2:
                raise RuntimeError("its connection is gone")

        async with running(tmp_path) as (commit, log):
            log.fault = fault
            for number in range(6):
                commit.submit([b"%d\n" % number], [], None, partial(tell, number))
            await until(lambda: len(told) == 6)
            log.fault = None
            await until(lambda: commit.fault is None)
            await bounded(put(commit, [b"6\n"], []))

        assert told == [(number, fault, threading.get_ident()) for number in range(6)]
        assert caplog.text.count("a request could not be told of its commit") == 3

    async def test_a_coroutine_may_wait(self, tmp_path):
        """`store` returns when the events are safe, and raises why they are not."""
        async with running(tmp_path) as (commit, log):
            await commit.store([b"1\n"], [b"bad\n"])
            assert commit.stats.events == 1
            log.fault_once = JournalFault("the disk is on fire")
            with pytest.raises(JournalFault, match="on fire"):
                await commit.store([b"2\n"], [])
            gone = asyncio.create_task(commit.store([b"3\n"], []))
            await asyncio.sleep(0)
            gone.cancel()
            await until(lambda: commit.stats.events == 2)
        assert stored(tmp_path) == [b"1\n", b"3\n"]

    async def test_one_thread_does_all_that_changes_the_log(self, tmp_path):
        """Commits, deletions, questions, probes and the end, and it is not the loop's."""
        async with running(tmp_path) as (commit, log):
            log.segment_bytes_max = 1
            log.fault_once = JournalFault("down")
            with pytest.raises(JournalFault):
                await commit.store([b"0\n"], [b"bad\n"])
            await until(lambda: commit.fault is None)
            await asyncio.gather(
                *(commit.store([b"%d\n" % number], []) for number in range(9)),
                *(commit.release(number, retention_s=0.0) for number in range(9)),
                commit.look(),
            )
            elsewhere = commit.release(log.end, retention_s=0.0)
            await asyncio.to_thread(asyncio.run, elsewhere)
            await commit.close()

        assert len(log.owners) == 1
        assert threading.get_ident() not in log.owners

    async def test_a_group_is_bounded(self, tmp_path, monkeypatch):
        """More than one group's worth of bytes goes down in several frames, in order."""
        monkeypatch.setattr(group_commit, "GROUP_BYTES_MAX", 100)
        lines = [b"%d" % number * 40 + b"\n" for number in range(5)]
        async with running(tmp_path) as (commit, _log):
            for waiter in [put(commit, [line], []) for line in lines]:
                await bounded(waiter)

            assert commit.stats.commits == 3
        assert stored(tmp_path) == lines

    async def test_a_cancelled_waiter_costs_others_nothing(self, tmp_path):
        """A client that goes away while it waits neither stops its commit nor that of others."""
        async with running(tmp_path) as (commit, log):
            first = await held_commit(commit, log)
            others = [put(commit, [b"%d\n" % number], []) for number in range(3)]
            first.cancel()
            others[1].cancel()
            log.gate.set()

            await bounded(others[0])
            await bounded(others[2])
        assert stored(tmp_path) == [b"first\n", b"0\n", b"1\n", b"2\n"]

    async def test_on_commit_is_called_after_the_log_took_the_group(self, tmp_path):
        """Whoever delivers is woken when there is something to read, and only then."""
        ends: list[int] = []
        async with running(tmp_path) as (commit, log):
            commit.on_commit = lambda: ends.append(log.end)
            await bounded(put(commit, [b"1\n"], []))
            await until(lambda: ends)
            log.fault = JournalFault("down")
            with pytest.raises(JournalFault):
                await bounded(put(commit, [b"2\n"], []))
            log.fault = None

            assert ends == [log.end]

    async def test_dead_letters_alone_are_committed_too(self, tmp_path):
        """A request of nothing but bad items is on disk before it is answered."""
        async with running(tmp_path) as (commit, log):
            await bounded(put(commit, [], [b"bad\n"]))

            assert log.end == 0
            files = list((tmp_path / "dead-letter").iterdir())
            assert [file.read_bytes() for file in files] == [b"bad\n"]


class TestFailure:
    async def test_it_fails_exactly_the_group_that_it_hit(self, tmp_path):
        """The running group fails, the one queued behind it is tried and stored."""
        async with running(tmp_path) as (commit, log):
            first = await held_commit(commit, log)
            second = put(commit, [b"second\n"], [])
            log.fault_once = JournalFault("the disk is on fire")
            log.gate.set()
            with pytest.raises(JournalFault, match="on fire"):
                await bounded(first)
            await bounded(second)

            assert commit.stats.failures == 1
        assert stored(tmp_path) == [b"second\n"]

    async def test_it_makes_the_journal_not_ready(self, tmp_path):
        """After a failed commit `check` says why, for as long as the disk does not work."""
        async with running(tmp_path) as (commit, log):
            commit.check()
            log.fault = JournalFault("the disk is on fire")
            with pytest.raises(JournalFault):
                await bounded(put(commit, [b"1\n"], []))

            with pytest.raises(JournalFault, match="on fire"):
                commit.check()
            started = log.started
            await until(lambda: log.started >= started + 2)
            with pytest.raises(JournalFault, match="on fire"):
                commit.check()

    async def test_checking_a_fault_does_not_gather_memory(self, tmp_path):
        """The fault's traceback does not grow with each request for `/ready`."""
        async with running(tmp_path) as (commit, log):
            log.fault = JournalFault("down")
            with pytest.raises(JournalFault):
                await bounded(put(commit, [b"1\n"], []))
            for _request in range(100):
                with suppress(JournalFault):
                    commit.check()

            depth, step = 0, commit.fault.__traceback__
            while step is not None:
                depth, step = depth + 1, step.tb_next
            assert depth < 10

    async def test_a_probe_makes_it_ready_again(self, tmp_path):
        """Readiness comes back without any request when the disk works again."""
        async with running(tmp_path) as (commit, log):
            log.fault = JournalFull("the disk is full")
            with pytest.raises(JournalFull):
                await bounded(put(commit, [b"1\n"], []))
            log.fault = None

            await until(lambda: commit.fault is None)
            commit.check()
            await bounded(put(commit, [b"2\n"], []))
        assert stored(tmp_path) == [b"2\n"]

    async def test_a_later_commit_makes_it_ready_again(self, tmp_path, monkeypatch):
        """A request that succeeds is proof enough that the disk works."""
        monkeypatch.setattr(group_commit, "PROBE_INTERVAL_S", 1_000.0)
        async with running(tmp_path) as (commit, log):
            log.fault = JournalFault("down")
            with pytest.raises(JournalFault):
                await bounded(put(commit, [b"1\n"], []))
            log.fault = None
            await bounded(put(commit, [b"2\n"], []))

            commit.check()

    async def test_a_surprise_is_a_fault_too(self, tmp_path):
        """An error that nobody foresaw is answered as unavailable and does not stop commits."""
        async with running(tmp_path) as (commit, log):
            log.fault = RuntimeError("surprise")
            with pytest.raises(JournalFault, match="RuntimeError"):
                await bounded(put(commit, [b"1\n"], []))
            log.fault = None
            await bounded(put(commit, [b"2\n"], []))
        assert stored(tmp_path) == [b"2\n"]

    async def test_a_failed_group_of_gone_clients_is_no_warning(self, tmp_path):
        """When all who waited are gone, a failure is not reported as an exception never read."""
        async with running(tmp_path) as (commit, log):
            first = await held_commit(commit, log)
            first.cancel()
            log.fault = JournalFault("down")
            log.gate.set()
            await until(lambda: commit.fault is not None)
            log.fault = None
        gc.collect()

    async def test_dead_letters_that_cannot_be_written_fail_the_group(self, tmp_path):
        """A group is acknowledged as a whole: without its dead letters it is not."""
        (tmp_path / "dead-letter").write_text("a file in the way")
        async with running(tmp_path) as (commit, log):
            with pytest.raises(JournalFault, match="dead letters"):
                await bounded(put(commit, [b"1\n"], [b"bad\n"]))

            assert log.end == 0

    async def test_one_probe_at_a_time(self, tmp_path, monkeypatch):
        """A commit that fails while a probe is under way begins no second row of probes."""
        monkeypatch.setattr(group_commit, "PROBE_INTERVAL_S", 1_000.0)
        async with running(tmp_path) as (commit, log):
            log.fault = JournalFault("down")
            with pytest.raises(JournalFault):
                await bounded(put(commit, [b"1\n"], []))
            second = await held_commit(commit, log)
            may_probe = threading.Event()

            def probe_late() -> None:
                assert may_probe.wait(DEADLINE_S)
                raise JournalFault("down")

            monkeypatch.setattr(log, "probe", probe_late)
            # The time for the probe has come; it waits behind the commit for their thread.
            commit._probe_timer.cancel()
            commit._probe()
            armed: list[float] = []
            call_later = commit._loop.call_later

            def note(delay_s: float, *call: object) -> asyncio.TimerHandle:
                armed.append(delay_s)
                return call_later(delay_s, *call)

            with monkeypatch.context() as patch:
                patch.setattr(commit, "_loop", Wrapped(commit._loop, call_later=note))
                log.gate.set()
                with pytest.raises(JournalFault):
                    await bounded(second)
                assert armed == []
                may_probe.set()
                await until(lambda: armed)

            assert armed == [1_000.0]
            log.fault = None

    async def test_dead_letters_come_after_the_question_for_space(self, tmp_path):
        """A request that a full disk refuses leaves none behind: it is sent again with them."""
        async with running(tmp_path) as (commit, log):
            await bounded(put(commit, [b"1\n"], []))
            log.disk_free_bytes_min = 1 << 60
            for _request in range(3):
                with pytest.raises(JournalFull):
                    await bounded(put(commit, [b"2\n"], [b"bad\n"]))
            assert not list(tmp_path.glob("dead-letter/*"))

            log.disk_free_bytes_min = 0
            await bounded(put(commit, [b"2\n"], [b"bad\n"]))
            assert [file.read_bytes() for file in tmp_path.glob("dead-letter/*")] == [b"bad\n"]
        assert stored(tmp_path) == [b"1\n", b"2\n"]


class TestLook:
    async def test_a_full_disk_is_known_before_the_first_request(self, tmp_path):
        """A look tells what the first commit would, and a probe when it is over."""
        async with running(tmp_path) as (commit, log):
            log.disk_free_bytes_min = 1 << 60
            await commit.look()
            with pytest.raises(JournalFull, match="bytes free, the limit is"):
                commit.check()

            log.disk_free_bytes_min = 0
            await until(lambda: commit.fault is None)
            commit.check()

    async def test_a_full_disk_is_known_between_commits(self, tmp_path):
        """A disk that others filled right after a commit is found without any other request."""
        async with running(tmp_path) as (commit, log):
            log.disk_free_bytes_min = 1
            await bounded(put(commit, [b"1\n"], []))
            await commit.look()
            commit.check()

            log.disk_free_bytes_min = 1 << 60
            await commit.look()
            with pytest.raises(JournalFull):
                commit.check()

            log.disk_free_bytes_min = 0
            await until(lambda: commit.fault is None)
            await bounded(put(commit, [b"2\n"], []))
        assert stored(tmp_path) == [b"1\n", b"2\n"]

    async def test_it_asks_nothing_of_a_closed_journal(self, tmp_path):
        """Who looks during a shutdown gets the shutdown's answer, not an error."""
        async with running(tmp_path) as (commit, _log):
            await commit.close()
            await commit.look()
            with pytest.raises(ShuttingDown):
                commit.check()


class TestRetention:
    async def test_it_gives_way_to_events_on_a_full_disk(self, tmp_path, monkeypatch):
        """With nothing left but delivered files, a full disk is over at the next probe."""
        line = b"x" * 299 + b"\n"
        async with running(tmp_path) as (commit, log):
            log.segment_bytes_max = 300
            monkeypatch.setattr(os, "fstatvfs", small_disk(log.directory, 5_000))
            log.disk_free_bytes_min = 1_000
            monkeypatch.setattr("segsrv.journal.log.CHECK_INTERVAL_S", 0.0)
            with pytest.raises(JournalFull):
                await deliver_at_once(commit, [line] * 50, retention_s=1e6)
            assert len(journal_files(log.directory)) > 5

            await until(lambda: commit.fault is None)
            await bounded(put(commit, [line], []))

    async def test_it_gives_no_way_to_what_deleting_cannot_help(self, tmp_path):
        """A broken disk costs no delivered file, and no undelivered one is ever at stake."""
        async with running(tmp_path) as (commit, log):
            log.segment_bytes_max = 1
            for number in range(5):
                await bounded(put(commit, [b"%d\n" % number], []))
            await commit.release(log.segments[2].base, retention_s=1e6)
            for fault, first in ((JournalFault("down"), 0), (JournalFull("full"), 2)):
                expected = log.segments[first].base
                log.fault = fault
                with pytest.raises(type(fault)):
                    await bounded(put(commit, [b"x\n"], []))
                started = log.started
                await until(lambda started=started: log.started >= started + 2)
                assert log.first == expected
                log.fault = None
                await until(lambda: commit.fault is None)
        assert stored(tmp_path) == [b"2\n", b"3\n", b"4\n"]


class TestBounds:
    async def test_pending_bytes_max(self, tmp_path):
        """Above the memory limit new events are refused; those below it are stored."""
        async with running(tmp_path, pending_bytes_max=100) as (commit, log):
            first = await held_commit(commit, log)
            second = put(commit, [b"x" * 89 + b"\n"], [])
            with pytest.raises(JournalFull, match="96 bytes wait for a commit"):
                put(commit, [b"12345\n"], [])
            third = put(commit, [b"123\n"], [])
            log.gate.set()
            for waiter in (first, second, third):
                await bounded(waiter)
            await bounded(put(commit, [b"12345\n"], []))
        assert len(stored(tmp_path)) == 4

    @pytest.mark.parametrize("name", ["pending_bytes_max", "journal_bytes_max"])
    async def test_what_never_fits_is_refused_for_good(self, tmp_path, name):
        """Events of one request above a limit are not to be sent again, unlike those at it."""
        async with running(tmp_path, **{name: 100}) as (commit, _log):
            with pytest.raises(BadRequest, match="take 101 bytes as stored, the limit is 100"):
                put(commit, [b"x" * 50], [b"y" * 51])
            await bounded(put(commit, [b"x" * 99 + b"\n"], []))
        assert len(stored(tmp_path)) == 1

    async def test_journal_bytes_max(self, tmp_path):
        """Undelivered events above the limit are refused until a sink has taken some."""
        async with running(tmp_path, journal_bytes_max=1_200) as (commit, log):
            line = b"x" * 299 + b"\n"
            for _number in range(3):
                await bounded(put(commit, [line], []))
            with pytest.raises(JournalFull, match="undelivered bytes, the limit is 1200"):
                put(commit, [line], [])

            await commit.release(log.end, retention_s=0.0)

            await bounded(put(commit, [line], []))
            assert log.end > 1_200, "one file holds more than the limit, and it is not deleted"

    async def test_a_journal_that_refused_is_not_ready_until_a_share_is_free(self, tmp_path):
        """From the first refusal on `check` says so, until 5 % of the limit is free again."""
        async with running(tmp_path, journal_bytes_max=10_000) as (commit, log):
            await bounded(put(commit, [b"x" * 9_600], []))
            commit.check()
            with pytest.raises(JournalFull):
                put(commit, [b"x" * 1_000], [])
            with pytest.raises(JournalFull, match="events were refused, and 5% is not free yet"):
                commit.check()

            await commit.release(log.end - 9_501, retention_s=0.0)
            with pytest.raises(JournalFull):
                commit.check()
            await commit.release(log.end - 9_500, retention_s=0.0)
            commit.check()

    async def test_events_are_taken_as_soon_as_there_is_room(self, tmp_path):
        """What refuses events has no memory: room for a request takes it."""
        async with running(tmp_path, journal_bytes_max=10_000) as (commit, log):
            await bounded(put(commit, [b"x" * 9_900], []))
            with pytest.raises(JournalFull):
                put(commit, [b"x" * 200], [])
            await commit.release(log.end - 9_700, retention_s=0.0)
            with pytest.raises(JournalFull):
                commit.check()
            await bounded(put(commit, [b"x" * 200], []))

    async def test_full_memory_makes_it_not_ready(self, tmp_path):
        """The same for events that wait for a commit, until enough of them are written."""
        async with running(tmp_path, pending_bytes_max=1_000) as (commit, log):
            first = await held_commit(commit, log)
            waiting = put(commit, [b"x" * 960], [])
            commit.check()
            with pytest.raises(JournalFull, match="wait for a commit, the limit is 1000"):
                put(commit, [b"x" * 100], [])
            with pytest.raises(JournalFull, match="wait for a commit, the limit is 1000; events"):
                commit.check()
            log.gate.set()
            await bounded(first)
            await bounded(waiting)
            commit.check()

    async def test_a_reason_from_outside_refuses_events(self, tmp_path):
        """While `refusal` says why, no event is taken, and `check` tells it too."""
        async with running(tmp_path) as (commit, _log):
            commit.refusal = lambda: "lag_bytes_max=7 of the sink x"
            with pytest.raises(JournalFull, match="lag_bytes_max=7 of the sink x"):
                put(commit, [b"1\n"], [])
            with pytest.raises(JournalFull, match="lag_bytes_max=7 of the sink x"):
                commit.check()
            commit.refusal = lambda: None
            commit.check()
            await bounded(put(commit, [b"1\n"], []))

    async def test_queued_events_count_against_the_journal(self, tmp_path):
        """Events that wait for a commit take their room before they are written."""
        async with running(tmp_path, journal_bytes_max=1_000) as (commit, log):
            first = await held_commit(commit, log)
            second = put(commit, [b"x" * 989 + b"\n"], [])
            with pytest.raises(JournalFull):
                put(commit, [b"12345\n"], [])
            log.gate.set()
            await bounded(first)
            await bounded(second)

    async def test_retained_files_give_way_to_new_events(self, tmp_path):
        """Delivered files that are only kept for retention never cause a refusal."""
        async with running(tmp_path, journal_bytes_max=1_000) as (commit, log):
            log.segment_bytes_max = 300
            for _number in range(20):
                await bounded(put(commit, [b"x" * 299 + b"\n"], []))
                await commit.release(log.end, retention_s=1e6)

            assert commit.held_bytes < 2_000


class TestMemoryDurability:
    async def test_nothing_is_awaited(self, tmp_path):
        """A request may be answered at once, and its events reach the disk after that."""
        async with running(tmp_path, waits_for_disk=False) as (commit, _log):
            assert put(commit, [b"1\n"], []).done()
            assert commit.stats.events == 0
            await until(lambda: commit.stats.events == 1)
        assert stored(tmp_path) == [b"1\n"]

    async def test_a_failing_disk_costs_no_event(self, tmp_path):
        """What was answered stays in memory, in order, until the disk takes it."""
        async with running(tmp_path, waits_for_disk=False) as (commit, log):
            log.fault = JournalFault("down")
            await held_commit(commit, log)
            put(commit, [b"second\n"], [])
            log.gate.set()
            await until(lambda: commit.stats.failures)
            failures = commit.stats.failures
            put(commit, [b"third\n"], [])
            await until(lambda: commit.stats.failures > failures)
            log.fault = None

            await until(lambda: commit.pending_bytes == 0)
            assert commit.fault is None
        assert stored(tmp_path) == [b"first\n", b"second\n", b"third\n"]

    async def test_dead_letters_are_written_once(self, tmp_path):
        """A group that is kept for another try does not write its dead letters again."""
        async with running(tmp_path, waits_for_disk=False) as (commit, log):
            log.fault = JournalFault("down")
            put(commit, [b"1\n"], [b"bad\n"])
            for failures in range(1, 4):
                await until(lambda failures=failures: commit.stats.failures >= failures)
                put(commit, [b"more\n"], [])
            log.fault = None
            await until(lambda: commit.pending_bytes == 0)

        assert [file.read_bytes() for file in tmp_path.glob("dead-letter/*")] == [b"bad\n"]
        assert stored(tmp_path) == [b"1\n", *[b"more\n"] * 3]

    async def test_memory_is_bounded_while_the_disk_fails(self, tmp_path):
        """A disk that stays down leads to refusals, not to unbounded memory."""
        async with running(tmp_path, waits_for_disk=False, pending_bytes_max=100) as (commit, log):
            log.fault = JournalFault("down")
            for number in range(10):
                put(commit, [b"%09d\n" % number], [])
            with pytest.raises(JournalFull):
                put(commit, [b"11\n"], [])
            await until(lambda: commit.stats.failures)

            assert commit.pending_bytes == 100
            log.fault = None
            await until(lambda: commit.pending_bytes == 0)
        assert len(stored(tmp_path)) == 10

    async def test_the_last_try_is_at_the_end(self, tmp_path, monkeypatch):
        """Events that a failing disk refused are tried once more at shutdown."""
        monkeypatch.setattr(group_commit, "PROBE_INTERVAL_S", 1_000.0)
        async with running(tmp_path, waits_for_disk=False) as (commit, log):
            log.fault = JournalFault("down")
            put(commit, [b"1\n"], [])
            await until(lambda: commit.stats.failures)
            log.fault = None
        assert stored(tmp_path) == [b"1\n"]

    async def test_a_dead_disk_does_not_hold_up_the_end(self, tmp_path, caplog):
        """With a disk that stays down, shutdown ends and says how many events are lost."""
        async with running(tmp_path, waits_for_disk=False) as (commit, log):
            log.fault = JournalFault("down")
            put(commit, [b"1\n", b"2\n"], [])
            await until(lambda: commit.stats.failures)
        assert "lost at shutdown, durability=memory events=2" in caplog.text


class TestEnd:
    async def test_what_is_queued_is_committed(self, tmp_path):
        """Closing during a commit waits for it and for all that is queued behind it."""
        async with running(tmp_path) as (commit, log):
            first = await held_commit(commit, log)
            second = put(commit, [b"second\n"], [])
            closing = asyncio.create_task(commit.close())
            await asyncio.sleep(0)
            with pytest.raises(ShuttingDown):
                put(commit, [b"third\n"], [])
            with pytest.raises(ShuttingDown):
                commit.check()
            log.gate.set()
            async with asyncio.timeout(DEADLINE_S):
                await closing

            assert first.done()
            assert second.done()
            assert second.exception() is None
        assert stored(tmp_path) == [b"first\n", b"second\n"]

    async def test_a_submit_of_the_same_turn_is_committed(self, tmp_path):
        """An event that was queued just before the end is not forgotten."""
        async with running(tmp_path) as (commit, _log):
            waiter = put(commit, [b"1\n"], [])
            async with asyncio.timeout(DEADLINE_S):
                await commit.finish()
            assert waiter.done()
        assert stored(tmp_path) == [b"1\n"]

    async def test_a_failing_disk_fails_what_is_queued(self, tmp_path):
        """At the end too, nobody is told that an event is stored when it is not."""
        async with running(tmp_path) as (commit, log):
            first = await held_commit(commit, log)
            second = put(commit, [b"second\n"], [])
            log.fault = JournalFault("down")
            finishing = asyncio.create_task(commit.finish())
            log.gate.set()
            async with asyncio.timeout(DEADLINE_S):
                await finishing

            assert isinstance(first.exception(), JournalFault)
            assert isinstance(second.exception(), JournalFault)
        assert stored(tmp_path) == []
