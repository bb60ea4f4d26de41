"""The station: several sinks, journals of removed workers, release, and a clear end."""

import asyncio
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from segsrv.delivery import attempts, journals
from segsrv.delivery.bundle import STEP_BYTES
from segsrv.delivery.cursor import CursorFile
from segsrv.delivery.station import Station
from segsrv.errors import DataDirInUse, JournalFault, JournalFull
from segsrv.journal.group_commit import GroupCommit
from segsrv.journal.log import SegmentLog
from segsrv.settings import Settings
from tests.waiting import DEADLINE_S, until

LINE_BYTES = 20_000
DEAD_SINK_GRACE_S = 0.05


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch):
    monkeypatch.setattr(attempts, "RETRY_S_MIN", 0.005)


def make_settings(tmp_path: Path, **changes) -> Settings:
    values = {
        "data_dir": tmp_path / "data",
        "durability": "write",
        "disk_free_bytes_min": 0,
        "flush_interval_s": 0.01,
        "sink_retry_s_max": 0.1,
        "journal_segment_bytes_max": 64 << 10,
        "flush_bytes_max": 64 << 10,
    }
    return Settings(**(values | changes))


@asynccontextmanager
async def running(settings: Settings, *, worker: int = 0) -> AsyncIterator[Station]:
    station = Station(settings, worker=worker)
    async with asyncio.timeout(2 * DEADLINE_S):
        await station.start()
        try:
            yield station
        finally:
            await station.stop()


def line(number: int) -> bytes:
    return json.dumps({"n": number, "pad": "x" * LINE_BYTES}).encode() + b"\n"


async def submit(station: Station, *numbers: int) -> None:
    for number in numbers:
        await station.commit.store([line(number)], [])


def stored(root: Path) -> list[int]:
    files = sorted(root.glob("**/*.ndjson"))
    # A last line without its newline is still being written, by another thread.
    lines = [line for file in files for line in file.read_bytes().split(b"\n")[:-1]]
    return [json.loads(line)["n"] for line in lines]


def journal_files(tmp_path: Path, worker: int = 0) -> list[Path]:
    return sorted((tmp_path / "data" / "journal" / f"w{worker}").glob("*.segment"))


def names(station: Station) -> list[str]:
    return sorted(source.name for source in station.delivery.sources)


class TestSinks:
    async def test_a_dead_sink_holds_nobody_up_and_nothing_is_released(self, tmp_path):
        """The live sink gets everything at once; the dead one everything when it is back."""
        dead, live = tmp_path / "dead", tmp_path / "live"
        dead.write_text("in the way")
        settings = make_settings(tmp_path, sink=(f"file:{dead}", f"file:{live}"))
        numbers = list(range(20))
        async with running(settings) as station:
            await submit(station, *numbers)
            await until(lambda: stored(live) == numbers)

            failing = [True, False]
            await until(lambda: [shipper.is_failing for shipper in station.shippers] == failing)
            assert station.commit.log.first == 0
            assert len(journal_files(tmp_path)) > 3

            dead.unlink()
            await until(lambda: stored(dead) == numbers)
            await until(lambda: len(journal_files(tmp_path)) == 1)

    async def test_a_sink_keeps_its_own_cursor_when_another_is_removed(self, tmp_path):
        """What a dead sink lacks is still its due after the sink before it left the settings."""
        dead, live = tmp_path / "dead", tmp_path / "live"
        dead.write_text("in the way")
        both = (f"file:{live}", f"file:{dead}")
        settings = make_settings(tmp_path, sink=both, shutdown_grace_s=DEAD_SINK_GRACE_S)
        async with running(settings) as station:
            await submit(station, 1, 2, 3)
            await until(lambda: stored(live) == [1, 2, 3])
        dead.unlink()

        async with running(make_settings(tmp_path, sink=both[1:])):
            await until(lambda: stored(dead) == [1, 2, 3])

    async def test_a_sink_that_was_removed_holds_no_journal(self, tmp_path):
        """Only the cursors of configured sinks keep files, whatever others are left behind."""
        dead, live = tmp_path / "dead", tmp_path / "live"
        dead.write_text("in the way")
        both = make_settings(
            tmp_path,
            sink=(f"file:{live}", f"file:{dead}"),
            shutdown_grace_s=DEAD_SINK_GRACE_S,
        )
        async with running(both) as station:
            await submit(station, *range(8))
            await until(lambda: len(stored(live)) == 8)

        async with running(make_settings(tmp_path, sink=(f"file:{live}",))) as station:
            await submit(station, 8)
            await until(lambda: stored(live) == list(range(9)))
            await until(lambda: len(journal_files(tmp_path)) == 1)

    async def test_a_full_journal_takes_events_again_when_the_sink_is_back(self, tmp_path):
        """At the limit events are refused, none is lost, and delivery makes room."""
        blocker = tmp_path / "out"
        blocker.write_text("in the way")
        settings = make_settings(tmp_path, sink=(f"file:{blocker}",), journal_bytes_max=1 << 20)
        taken = 0
        async with running(settings) as station:
            for number in range(100):
                try:
                    await submit(station, number)
                except JournalFull:
                    break
                taken += 1
            assert 40 < taken < 60

            blocker.unlink()
            await until(lambda: len(stored(blocker)) == taken)
            await until(lambda: station.commit.undelivered_bytes == 0)
            await submit(station, taken)
            await until(lambda: stored(blocker) == list(range(taken + 1)))

    async def test_a_limit_below_one_journal_file_is_no_dead_end(self, tmp_path):
        """Delivered events in the newest file take no room from new ones, after a start too."""
        settings = make_settings(
            tmp_path, journal_bytes_max=1 << 20, journal_segment_bytes_max=64 << 20
        )
        root = tmp_path / "data" / "events"
        numbers = list(range(120))
        for part in (numbers[:60], numbers[60:]):
            async with running(settings) as station:
                for number in part:
                    await submit(station, number)
                    await until(lambda: station.commit.undelivered_bytes < 500_000)
        await until(lambda: stored(root) == numbers)

    async def test_many_small_files_go_out_together(self, tmp_path):
        """What piled up in 110 files of 64 KiB goes out in full steps; none waits for more."""
        root = tmp_path / "out"
        root.write_text("in the way")
        sink = (f"file:{root}",)
        numbers = list(range(110 * (64 << 10) // LINE_BYTES))
        settings = make_settings(
            tmp_path, sink=sink, shutdown_grace_s=DEAD_SINK_GRACE_S, flush_bytes_max=8 << 20
        )
        async with running(settings) as station:
            await submit(station, *numbers)
        assert len(journal_files(tmp_path)) > 80
        root.unlink()

        async with running(replace(settings, shutdown_grace_s=10.0)) as station:
            await submit(station, len(numbers))
            await until(lambda: stored(root) == [*numbers, len(numbers)])
            steps = len(numbers) * LINE_BYTES / STEP_BYTES
            assert station.shippers[0].stats.batches <= steps + 3

    async def test_a_failing_release_does_not_end_delivery(self, tmp_path, monkeypatch):
        """What happens to the journal after a delivery can't stop the next one."""
        release, is_failing = GroupCommit.release, True

        async def fail(*arguments, **options) -> None:
            if is_failing:
                raise OSError(30, "Read-only file system")
            await release(*arguments, **options)

        async with running(make_settings(tmp_path)) as station:
            monkeypatch.setattr(GroupCommit, "release", fail)
            await submit(station, *range(20))
            await until(lambda: stored(tmp_path / "data" / "events") == list(range(20)))
            assert len(journal_files(tmp_path)) > 3
            is_failing = False
            await submit(station, *range(20, 40))
            await until(lambda: stored(tmp_path / "data" / "events") == list(range(40)))
            await until(lambda: len(journal_files(tmp_path)) == 1)


class TestJournals:
    async def test_a_removed_workers_journal_is_delivered(self, tmp_path):
        """With fewer workers, those left deliver what the others had accepted."""
        root = tmp_path / "out"
        root.write_text("in the way")
        sink = (f"file:{root}",)
        for worker in range(3):
            settings = make_settings(
                tmp_path, sink=sink, workers=3, shutdown_grace_s=DEAD_SINK_GRACE_S
            )
            async with running(settings, worker=worker) as station:
                await submit(station, worker)
        root.unlink()

        async with running(make_settings(tmp_path, sink=sink)) as station:
            await until(lambda: sorted(stored(root)) == [0, 1, 2])
            assert names(station) == ["w0", "w1", "w2"]

    async def test_each_left_journal_has_one_new_owner(self, tmp_path):
        """Of two workers each takes on every other journal, and none is opened twice."""
        for number in range(6):
            (tmp_path / "data" / "journal" / f"w{number}").mkdir(parents=True)
        settings = make_settings(tmp_path, workers=2)
        async with (
            running(settings, worker=0) as first,
            running(settings, worker=1) as second,
        ):
            assert names(first) == ["w0", "w2", "w4"]
            assert names(second) == ["w1", "w3", "w5"]

    async def test_a_second_station_is_refused(self, tmp_path):
        """Two servers never write one journal; the first goes on unharmed."""
        settings = make_settings(tmp_path)
        async with running(settings) as station:
            with pytest.raises(DataDirInUse, match="in use by process"):
                await Station(settings, worker=0).start()
            await submit(station, 1)
        assert stored(tmp_path / "data" / "events") == [1]

    async def test_a_delivery_that_outlived_its_workers_is_waited_for(self, tmp_path):
        """After a kill of their parent it goes on for its grace period, with the same cursors."""
        settings = make_settings(tmp_path)
        lock_fd, _path = journals.take_delivery_lock(settings)
        try:
            with pytest.raises(DataDirInUse, match="in use by process"):
                await Station(settings, worker=0).start()
            with pytest.raises(DataDirInUse):
                await Station(replace(settings, workers=2), worker=1).start()
        finally:
            os.close(lock_fd)
        both = replace(settings, workers=2)
        async with running(both, worker=0), running(both, worker=1):
            with pytest.raises(DataDirInUse):
                journals.take_delivery_lock(settings)
        async with running(settings):
            pass

    async def test_nothing_new_is_taken_for_delivered(self, tmp_path):
        """A sink misses nothing that comes after the journal's files were removed."""
        settings = make_settings(tmp_path)
        async with running(settings) as station:
            await submit(station, 1)
        for file in journal_files(tmp_path):
            file.unlink()

        async with running(settings) as station:
            await submit(station, 2)
        assert stored(tmp_path / "data" / "events") == [1, 2]

    async def test_positions_begin_above_the_cursors(self, tmp_path):
        """After a power cut took the end of a journal, no position is given away twice."""
        settings = make_settings(tmp_path)
        async with running(settings) as station:
            await submit(station, 1, 2, 3)
            end = station.commit.log.end
        file = journal_files(tmp_path)[-1]
        os.truncate(file, file.stat().st_size // 2)

        async with running(settings) as station:
            assert station.commit.log.end >= end
            await submit(station, 4)
        assert stored(tmp_path / "data" / "events") == [1, 2, 3, 4]

    async def test_a_cursor_of_another_journal_means_again_what_is_held(self, tmp_path, caplog):
        """A journal that was put in place of another is delivered from its first event on."""
        settings, other = make_settings(tmp_path), make_settings(tmp_path / "other")
        async with running(settings) as station:
            await submit(station, 1, 2, 3)
        dead = make_settings(tmp_path / "other", sink=(f"file:{tmp_path}/no/x",))
        (tmp_path / "no").write_text("in the way")
        async with running(replace(dead, shutdown_grace_s=DEAD_SINK_GRACE_S)) as station:
            await submit(station, 4, 5)
        shutil.rmtree(tmp_path / "data" / "journal")
        shutil.move(tmp_path / "other" / "data" / "journal", tmp_path / "data" / "journal")
        assert other.data_dir.exists()

        async with running(settings):
            pass
        assert stored(tmp_path / "data" / "events") == [1, 2, 3, 4, 5]
        assert "of another journal" in caplog.text


class TestStart:
    async def test_an_unreadable_cursor_stops_no_start(self, tmp_path, caplog):
        """Whatever the files of cursors hold, what the journal has is delivered."""
        state = tmp_path / "data" / "state"
        (state / "sinks").mkdir(parents=True)
        (state / "w0-file.json").write_text("?")
        (state / "w0-removed.json").write_text('{"start": "0", "end": []}')
        (state / "sinks" / "removed.cursor").write_text("?")
        (state / "sinks" / "file.cursor").write_text("?")
        async with running(make_settings(tmp_path)) as station:
            await submit(station, 1)
        assert stored(tmp_path / "data" / "events") == [1]
        assert "file=w0-file.json" in caplog.text
        assert "file=file.cursor" in caplog.text

    async def test_a_data_directory_that_cannot_be_made_is_a_clear_error(self, tmp_path):
        """A file in the way is told as such, not as a surprise."""
        (tmp_path / "data").write_text("in the way")

        with pytest.raises(JournalFault, match=r"data directory can't be used: .*data"):
            await Station(make_settings(tmp_path), worker=0).start()

    @pytest.mark.parametrize("obstacle", ["file", "mode"])
    async def test_cursors_that_could_not_be_saved_stop_the_start(
        self, tmp_path, monkeypatch, obstacle
    ):
        """Without its folder no event could be noted as delivered; the error names the folder."""
        state = tmp_path / "data" / "state" / "sinks"
        if obstacle == "file":
            state.parent.mkdir(parents=True)
            state.write_text("in the way")
        else:
            state.mkdir(parents=True)
            # Modes mean nothing where the tests run as root.
            monkeypatch.setattr(os, "access", lambda path, _mode: path != state)

        with pytest.raises(JournalFault, match=rf"data directory can't be used: .*{state}"):
            await Station(make_settings(tmp_path), worker=0).start()
        assert not list(tmp_path.glob("data/journal/*/*.segment"))

    async def test_a_full_disk_is_known_at_once(self, tmp_path):
        """A station that starts on a full disk says so before anybody sends an event."""
        async with running(make_settings(tmp_path, disk_free_bytes_min=1 << 50)) as station:
            with pytest.raises(JournalFull):
                station.commit.check()

    async def test_a_start_that_fails_late_leaves_nothing_locked(self, tmp_path, monkeypatch):
        """Whatever step fails, the next start finds the directory free."""

        async def fail(_commit: GroupCommit) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(GroupCommit, "look", fail)
            with pytest.raises(JournalFault, match="Input/output error"):
                await Station(make_settings(tmp_path), worker=0).start()

        async with running(make_settings(tmp_path)) as station:
            await submit(station, 1)

    async def test_a_cancelled_start_leaves_nothing_locked(self, tmp_path, monkeypatch):
        """A start that is given up while a thread opens a journal ends with it closed."""
        has_begun, may_end = threading.Event(), threading.Event()
        recover = SegmentLog._recover

        def recover_late(log: SegmentLog) -> None:
            has_begun.set()
            assert may_end.wait(DEADLINE_S)
            recover(log)

        with monkeypatch.context() as patch:
            patch.setattr(SegmentLog, "_recover", recover_late)
            station = Station(make_settings(tmp_path), worker=0)
            starting = asyncio.create_task(station.start())
            await until(has_begun.is_set)
            starting.cancel()
            await asyncio.sleep(0)
            may_end.set()
            with pytest.raises(asyncio.CancelledError):
                await starting
        await station.stop()

        async with running(make_settings(tmp_path)) as station:
            await submit(station, 1)


class TestStop:
    async def test_memory_durability_loses_nothing_at_an_orderly_end(self, tmp_path):
        """What was queued and not yet written goes down and out before the end."""
        async with running(make_settings(tmp_path, durability="memory")) as station:
            await submit(station, *range(30))
        assert stored(tmp_path / "data" / "events") == list(range(30))

    async def test_a_cancelled_stop_ends_delivery_before_the_lock(self, tmp_path, monkeypatch):
        """Given up by an outer application, it leaves no shipper beside the next server's."""
        has_begun, may_end = threading.Event(), threading.Event()
        save = CursorFile.save

        def save_late(*arguments: object) -> None:
            has_begun.set()
            assert may_end.wait(DEADLINE_S)
            save(*arguments)

        monkeypatch.setattr(CursorFile, "save", save_late)
        settings = make_settings(tmp_path, shutdown_grace_s=DEAD_SINK_GRACE_S)
        station = Station(settings, worker=0)
        await station.start()
        await submit(station, 1, 2, 3)
        await until(has_begun.is_set)
        stopping = asyncio.create_task(station.stop())
        await until(station.shippers[0]._stopping.is_set)
        for _impatience in range(2):
            stopping.cancel()
            await asyncio.sleep(0)
        with pytest.raises(DataDirInUse):
            await Station(settings, worker=0).start()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await station.stop()

        async with running(settings):
            await until(lambda: stored(tmp_path / "data" / "events") == [1, 2, 3])

    async def test_a_loop_that_ends_ends_delivery_before_the_lock(self, tmp_path):
        """Also when every task is cancelled, as at the end of `asyncio.run`."""
        root = tmp_path / "out"
        root.write_text("in the way")
        settings = make_settings(tmp_path, sink=(f"file:{root}",), shutdown_grace_s=600)
        station = Station(settings, worker=0)
        await station.start()
        await submit(station, 1)
        shipper = station.shippers[0]
        stopping = asyncio.create_task(station.stop())
        await until(shipper._stopping.is_set)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(DEADLINE_S):
                await stopping

        assert shipper._task.done()
        other = Station(settings, worker=0)
        await other._open()
        await other.stop()

    async def test_what_a_dead_sink_did_not_take_goes_out_at_the_next_start(self, tmp_path):
        """The end says what is left, and the next start delivers it once."""
        root = tmp_path / "out"
        root.write_text("in the way")
        sink = (f"file:{root}",)
        settings = make_settings(tmp_path, sink=sink, shutdown_grace_s=DEAD_SINK_GRACE_S)
        async with running(settings) as station:
            await submit(station, 1, 2, 3)
        root.unlink()

        async with running(make_settings(tmp_path, sink=sink)):
            await until(lambda: stored(root) == [1, 2, 3])
        assert stored(root) == [1, 2, 3]
