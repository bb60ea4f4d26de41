"""One dead sink touches nothing else: what happens when it lags too far."""

import asyncio
import contextlib
import json
import shutil
from contextlib import closing
from dataclasses import replace

import pytest

from segsrv.board import Board
from segsrv.delivery import attempts
from segsrv.delivery.cursor import Mark
from segsrv.delivery.set_aside import SetAside, parts_of
from segsrv.delivery.station import Station
from segsrv.errors import JournalFull
from segsrv.journal.reader import Reader
from segsrv.settings import SinkTable
from tests.delivery.shipping import append, open_log
from tests.delivery.test_station import (
    DEAD_SINK_GRACE_S,
    LINE_BYTES,
    journal_files,
    make_settings,
    running,
    stored,
    submit,
)
from tests.waiting import until

MIB = 1 << 20
ENOUGH = 2 * MIB // LINE_BYTES


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch):
    monkeypatch.setattr(attempts, "RETRY_S_MIN", 0.005)


def settings_with(tmp_path, **dead_options):
    """Return settings of a live sink and a dead one of at most 1 MiB lag."""
    (tmp_path / "dead").write_text("in the way")
    dead = SinkTable(name="dead", url=f"file:{tmp_path}/dead", lag_bytes_max=MIB, **dead_options)
    live = SinkTable(name="live", url=f"file:{tmp_path}/live")
    return make_settings(tmp_path, sinks=(dead, live), shutdown_grace_s=DEAD_SINK_GRACE_S)


async def test_refuse_stops_requests_until_the_sink_is_back(tmp_path):
    """Beyond its limit events are refused with a reason that names the sink, and none is lost."""
    taken = []
    async with running(settings_with(tmp_path)) as station:

        async def is_refused() -> bool:
            try:
                await submit(station, len(taken))
            except JournalFull:
                return True
            taken.append(len(taken))
            return False

        async with asyncio.timeout(20):
            while not await is_refused():
                assert len(taken) < 10 * ENOUGH
                await asyncio.sleep(0.01)
        with pytest.raises(JournalFull, match=r"the sink dead lacks .* lag_bytes_max=1048576"):
            station.commit.check()
        await until(lambda: stored(tmp_path / "live") == taken)

        (tmp_path / "dead").unlink()
        await until(lambda: stored(tmp_path / "dead") == taken)
        async with asyncio.timeout(20):
            while await is_refused():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await until(lambda: stored(tmp_path / "dead") == taken)


async def test_set_aside_keeps_the_oldest_and_goes_on(tmp_path):
    """Nobody else waits: requests are taken, the other sink gets all, the journal gets smaller."""
    numbers = list(range(3 * ENOUGH))
    async with running(settings_with(tmp_path, on_full="set_aside")) as station:
        for number in numbers:
            await submit(station, number)
            await asyncio.sleep(0.005)
        await until(lambda: stored(tmp_path / "live") == numbers)
        await until(lambda: station.commit.held_bytes < 2 * MIB)
        assert station.delivery.set_aside_bytes()["dead"][0] > MIB
        (tmp_path / "dead").unlink()
        await until(lambda: station.delivery.shippers[0].lag_bytes == 0)

    assert set_aside_numbers(tmp_path) + stored(tmp_path / "dead") == numbers
    assert len(journal_files(tmp_path)) <= 2


async def test_a_crash_behind_setting_aside_delivers_none_of_it(tmp_path):
    """The cursor may not say yet what was set aside; a replay would double what is delivered."""
    numbers = list(range(2 * ENOUGH))
    settings = settings_with(tmp_path, on_full="set_aside")
    state, before = tmp_path / "data" / "state" / "sinks", tmp_path / "before"
    async with running(settings) as station:
        await until(lambda: list(state.glob("dead-*.cursor")))
        await submit(station, *numbers[:5])
        shutil.copytree(state, before)
        for number in numbers[5:]:
            await submit(station, number)
            await asyncio.sleep(0.005)
        await until(lambda: station.delivery.set_aside_bytes()["dead"][0] > 0)
    for path in before.glob("dead-*.cursor"):
        shutil.copy(path, state)
    (tmp_path / "dead").unlink()

    async with running(replace(settings, shutdown_grace_s=10.0)):
        pass
    assert set_aside_numbers(tmp_path) + stored(tmp_path / "dead") == numbers


def set_aside_numbers(tmp_path) -> list[int]:
    (folder,) = (tmp_path / "data" / "set-aside").iterdir()
    kept = []
    for path, part in parts_of(folder):
        (start, _skip), (end, _end_skip) = part["start"], part["end"]
        chunk = Reader(path / "w0").read(start, bytes_max=end - start, end=end)
        kept += [json.loads(line)["n"] for line in chunk.lines.splitlines()]
    return kept


async def test_what_was_sent_later_is_no_longer_counted(tmp_path):
    """A part that a replay has taken away leaves the figures of the running server, too."""
    async with running(settings_with(tmp_path, on_full="set_aside")) as station:
        for number in range(3 * ENOUGH):
            await submit(station, number)
        await until(lambda: station.delivery.set_aside_bytes()["dead"][0] > MIB)
        (folder,) = (tmp_path / "data" / "set-aside").iterdir()
        (tmp_path / "dead").unlink()
        await until(lambda: station.delivery.shippers[0].lag_bytes == 0)
        for path, _part in list(parts_of(folder)):
            shutil.rmtree(path)
        await until(lambda: station.delivery.set_aside_bytes()["dead"] == (0, 0))


async def test_a_disk_that_sets_nothing_aside_keeps_nobody_else(tmp_path, caplog):
    """Another sink's limit still counts, and the sink gets all that it lacks when it is back."""
    settings = settings_with(tmp_path, on_full="set_aside")
    dead, live = settings.sinks
    (tmp_path / "other").write_text("in the way")
    other = SinkTable(name="other", url=f"file:{tmp_path}/other", lag_bytes_max=2 * MIB)
    settings = replace(settings, sinks=(dead, live, other))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set-aside").write_text("in the way")
    taken = []
    async with running(settings) as station:

        async def fill() -> None:
            while len(taken) < 10 * ENOUGH:
                await submit(station, len(taken))
                taken.append(len(taken))
                await asyncio.sleep(0.01)

        with pytest.raises(JournalFull, match="the sink other lacks"):
            await fill()
        assert caplog.text.count("can't be set aside") == 1
        (tmp_path / "dead").unlink()
        await until(lambda: stored(tmp_path / "dead") == taken)


def test_what_one_journal_set_aside_counts_when_the_disk_refuses_anothers(tmp_path):
    """Else it would be set aside and delivered; links of a failed try keep no room."""
    folder = tmp_path / "set-aside"
    aside = SetAside(folder, bytes_max=MIB)
    journals = {}
    for name in ("w0", "w1"):
        with closing(open_log(tmp_path / name)) as log:
            append(log, 1)
            journals[name] = (log.directory, log.id, Mark(0), log.end)
    (tmp_path / "w1" / "journal").rename(tmp_path / "away")

    assert set(aside.move(journals, keep_bytes=0)) == {"w0"}
    with pytest.raises(FileNotFoundError):
        aside.move({"w1": journals["w1"]}, keep_bytes=0)

    assert [part["journal"] for _path, part in parts_of(folder)] == ["w0"]


async def test_what_is_set_aside_is_bounded(tmp_path, caplog):
    """The oldest part goes first, counted and logged, and the folder stays within its limit."""
    settings = settings_with(tmp_path, on_full="set_aside")
    object.__setattr__(settings, "set_aside_bytes_max", 2 * MIB)
    async with running(settings) as station:
        for number in range(5 * ENOUGH):
            await submit(station, number)
            await asyncio.sleep(0.005)
        await until(lambda: station.delivery.set_aside_bytes()["dead"][1] > 0)
        held, _lost = station.delivery.set_aside_bytes()["dead"]
        assert held <= 2 * MIB
    assert "no room for what was set aside" in caplog.text


async def test_a_refusal_for_another_process_names_the_sink(tmp_path):
    """Where a process of its own delivers, a sink of the short form is named too."""
    with contextlib.closing(Board(1)) as board:
        station = Station(make_settings(tmp_path), worker=0, board=board)
        await station.start()
        try:
            board.sinks_full = 1
            with pytest.raises(JournalFull, match="the sink file lags more than its lag_bytes_max"):
                station.commit.check()
        finally:
            await station.stop()
