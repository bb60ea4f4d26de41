"""The file sink: every event once whatever step a crash hits, and files that are never harmed."""

import asyncio
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from segsrv.delivery.cursor import CursorFile
from segsrv.errors import SinkUnavailable
from segsrv.files import write_all
from segsrv.sinks import file as file_module
from segsrv.sinks.base import Batch
from segsrv.sinks.file import FileSink
from tests.delivery.shipping import append, open_log, shipping
from tests.waiting import until

MIB = 1 << 20
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
async def sink(tmp_path):
    sink = FileSink(tmp_path / "events", worker=0, file_bytes_max=MIB)
    await sink.open()
    yield sink
    await sink.close()


def batch(*numbers: int) -> Batch:
    lines = b"".join(b'{"n":%d}\n' % number for number in numbers)
    return of_lines(lines, f"test-{numbers[0]}")


def of_lines(lines: bytes, batch_id: str = "test-3") -> Batch:
    return Batch(batch_id, [lines], lines.count(b"\n"), list)


def stored(root: Path) -> list[bytes]:
    """Return all lines below *root*, found as users are told to find them."""
    files = sorted(root.glob("events/**/*.ndjson"))
    data = [file.read_bytes() for file in files]
    assert all(part.endswith(b"\n") for part in data if part), "a torn line"
    return b"".join(data).splitlines(keepends=True)


def set_clock(monkeypatch, now: datetime) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, _zone=None) -> datetime:
            return now

    monkeypatch.setattr(file_module, "datetime", Clock)


async def put(sink: FileSink, part: Batch, last: dict) -> dict:
    placement = await sink.plan(part, last)
    await sink.send(part, placement)
    return placement


class TestFiles:
    async def test_batches_share_the_file_of_their_day(self, tmp_path, sink, monkeypatch):
        """One day is one folder, and a small day one file, named for the documented pattern."""
        set_clock(monkeypatch, NOON)
        placement = await put(sink, batch(1, 2), {})
        await put(sink, batch(3), placement)

        files = list((tmp_path / "events").glob("**/*.ndjson"))
        assert [file.parent.name for file in files] == ["2026-11-23"]
        assert stored(tmp_path) == [b'{"n":1}\n', b'{"n":2}\n', b'{"n":3}\n']

    async def test_a_new_day_begins_a_new_file(self, tmp_path, sink, monkeypatch):
        """After midnight UTC events go to the next day's folder."""
        set_clock(monkeypatch, NOON)
        placement = await put(sink, batch(1), {})
        set_clock(monkeypatch, NOON + timedelta(days=1))
        await put(sink, batch(2), placement)

        days = sorted(path.parent.name for path in (tmp_path / "events").glob("**/*.ndjson"))
        assert days == ["2026-11-23", "2026-11-24"]
        assert len(stored(tmp_path)) == 2

    async def test_a_full_file_is_followed_by_another(self, tmp_path, monkeypatch):
        """A file at its size limit takes nothing more, and their names keep the order."""
        set_clock(monkeypatch, NOON)
        sink = FileSink(tmp_path / "events", worker=0, file_bytes_max=20)
        placement: dict = {}
        for number in range(10, 20):
            placement = await put(sink, batch(number), placement)
        await sink.close()

        assert len(list((tmp_path / "events").glob("**/*.ndjson"))) == 4
        assert stored(tmp_path) == [b'{"n":%d}\n' % number for number in range(10, 20)]

    @pytest.mark.parametrize("how", ["moved", "emptied", "cut"])
    async def test_a_file_taken_away_between_batches(self, tmp_path, sink, how):
        """A file that the operator moved, emptied or cut is not continued behind a hole."""
        placement = await put(sink, batch(1, 2), {})
        take_away(tmp_path / "events" / placement["file"], how)
        placement = await put(sink, batch(3), placement)
        await put(sink, batch(4), placement)

        assert stored(tmp_path)[-2:] == [b'{"n":3}\n', b'{"n":4}\n']

    @pytest.mark.parametrize("how", ["moved", "emptied", "cut"])
    async def test_a_file_taken_away_from_under_a_planned_batch(
        self, tmp_path, sink, how, monkeypatch
    ):
        """Then too the batch is stored once, however often its sending was cut short."""
        placement = await put(sink, batch(1, 2), {})
        planned = await sink.plan(batch(3, 4), placement)
        take_away(tmp_path / "events" / planned["file"], how)

        def write_half(fd, parts) -> None:
            write_all(fd, [b"".join(parts)[:12]])
            # The process dies here: nobody tidies up.
            raise KeyboardInterrupt

        for _crash in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(file_module, "write_all", write_half)
                with pytest.raises(KeyboardInterrupt):
                    sink._write(batch(3, 4), planned)
        await sink.send(batch(3, 4), planned)
        await sink.send(batch(3, 4), planned)
        await put(sink, batch(5), planned)

        expected = [b'{"n":3}\n', b'{"n":4}\n', b'{"n":5}\n']
        assert sorted(stored(tmp_path))[-3:] == expected
        assert len(stored(tmp_path)) == (4 if how == "cut" else 3)

    async def test_a_file_taken_away_in_the_middle_of_a_try(self, tmp_path, sink, monkeypatch):
        """A file that goes just before it is opened is not made again with a hole in it."""
        placement = await put(sink, batch(1, 2), {})
        planned = await sink.plan(batch(3), placement)
        path = tmp_path / "events" / planned["file"]
        open_file = os.open

        def take_away_and_open(*arguments: object) -> int:
            path.unlink()
            return open_file(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", take_away_and_open)
            with pytest.raises(SinkUnavailable, match="No such file"):
                await sink.send(batch(3), planned)
        await sink.send(batch(3), planned)

        assert stored(tmp_path) == [b'{"n":3}\n']

    async def test_two_servers_on_one_folder_do_not_harm_each_other(self, tmp_path, sink):
        """Positions of two journals may be equal; what one wrote the other never cuts off."""
        other = FileSink(tmp_path / "events", worker=0, file_bytes_max=MIB)
        ours, theirs = await sink.plan(batch(1), {}), await other.plan(batch(1), {})
        await sink.send(batch(1), ours)
        await other.send(batch(1), theirs)
        await put(sink, batch(2), ours)
        await put(other, batch(3), theirs)
        await other.close()

        assert sorted(stored(tmp_path)) == [
            b'{"n":1}\n',
            b'{"n":1}\n',
            b'{"n":2}\n',
            b'{"n":3}\n',
        ]

    async def test_a_failed_write_leaves_no_half_line(self, tmp_path, sink, monkeypatch):
        """While the disk refuses the rest of a batch, readers see whole lines only."""
        placement = await put(sink, batch(1), {})
        planned = await sink.plan(batch(2), placement)

        def run_full(fd, parts) -> None:
            write_all(fd, [b"".join(parts)[:4]])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(file_module, "write_all", run_full)
            with pytest.raises(SinkUnavailable, match="No space left"):
                await sink.send(batch(2), planned)
        assert stored(tmp_path) == [b'{"n":1}\n']

        await sink.send(batch(2), planned)
        assert stored(tmp_path) == [b'{"n":1}\n', b'{"n":2}\n']

    async def test_a_file_in_the_way_of_the_folder(self, tmp_path):
        """A root that can't be a folder is the sink being unavailable, not a surprise."""
        (tmp_path / "events").write_text("in the way")
        sink = FileSink(tmp_path / "events", worker=0, file_bytes_max=MIB)
        with pytest.raises(SinkUnavailable, match="events"):
            await sink.open()
        with pytest.raises(SinkUnavailable, match="not a folder"):
            await sink.check()
        await sink.close()


def take_away(path: Path, how: str) -> None:
    match how:
        case "moved":
            path.rename(path.with_suffix(".archived"))
        case "emptied":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(path.read_bytes()[:8])


class TestDamagedJournal:
    """A batch was planned, the server died, and the journal then held only a part of it."""

    @pytest.mark.parametrize("left", [b"", b'{"n":3}\n'], ids=["nothing", "a_part"])
    @pytest.mark.parametrize("before", [[], [batch(1, 2)]], ids=["new_file", "same_file"])
    async def test_a_batch_that_the_file_has_whole_stays(self, tmp_path, sink, before, left):
        """The only good copy is not replaced by what the journal has left of it."""
        placement: dict = {}
        for part in before:
            placement = await put(sink, part, placement)
        planned = await put(sink, batch(3, 4, 5), placement)
        expected = stored(tmp_path)

        await sink.send(of_lines(left), planned)
        assert stored(tmp_path) == expected

        await put(sink, batch(6), planned)
        assert stored(tmp_path) == [*expected, b'{"n":6}\n']

    async def test_it_stays_in_the_file_that_took_the_place_of_another_too(self, tmp_path, sink):
        """The same holds where the operator took the planned file away."""
        planned = await sink.plan(batch(3, 4), await put(sink, batch(1, 2), {}))
        take_away(tmp_path / "events" / planned["file"], "moved")
        await sink.send(batch(3, 4), planned)

        await sink.send(of_lines(b'{"n":4}\n'), planned)

        assert stored(tmp_path) == [b'{"n":3}\n', b'{"n":4}\n']

    @pytest.mark.parametrize(
        "found", [b"", b'{"n":3}\n', b'{"n":3}\n{"n":4}\n{"n"', b'{"n":3}\n' + bytes(15) + b"\n"]
    )
    async def test_a_batch_that_the_file_has_in_part_is_written_again(self, tmp_path, sink, found):
        """What a crash left of the batch, zeros included, gives way to what the journal has."""
        planned = await sink.plan(batch(3, 4, 5), await put(sink, batch(1), {}))
        with (tmp_path / "events" / planned["file"]).open("ab") as file:
            file.write(found)

        await sink.send(of_lines(b'{"n":5}\n'), planned)

        assert stored(tmp_path) == [b'{"n":1}\n', b'{"n":5}\n']


class TestCrash:
    """A crash at each step, simulated by starting again from a copy of all files at that step."""

    @pytest.mark.parametrize("file_bytes_max", [MIB, 40], ids=["one_file", "many_files"])
    @pytest.mark.parametrize("days", [0, 1], ids=["same_day", "next_day"])
    async def test_every_event_is_stored_once(self, tmp_path, monkeypatch, file_bytes_max, days):
        """Wherever the crash hits (plan, part of a write, cursor), nothing is lost or twice."""
        set_clock(monkeypatch, NOON)
        live = tmp_path / "live"
        copies: list[Path] = []

        def copy_all() -> None:
            copies.append(tmp_path / f"crash-{len(copies)}")
            shutil.copytree(live, copies[-1])

        with monkeypatch.context() as patch:
            _copy_at_each_step(patch, copy_all)
            log = open_log(live)
            lines = append(log, *range(9))
            three_frames = log.end // 3
            await _deliver(live, log, file_bytes_max, flush_bytes_max=three_frames)
            log.close()
        assert stored(live) == lines
        assert len(copies) > 3 * 6

        set_clock(monkeypatch, NOON + timedelta(days=days))
        for copy in copies:
            log = open_log(copy)
            lines_now = lines + append(log, 9)
            await _deliver(copy, log, file_bytes_max, flush_bytes_max=MIB)
            log.close()
            assert stored(copy) == lines_now, copy.name


def _copy_at_each_step(patch, copy_all) -> None:
    save = CursorFile.save

    def save_and_copy(*arguments) -> None:
        copy_all()
        save(*arguments)
        copy_all()

    def write_and_copy(fd, parts) -> None:
        copy_all()
        data = b"".join(parts)
        for offset in range(0, len(data), 10):
            write_all(fd, [data[offset : offset + 10]])
            copy_all()

    patch.setattr(CursorFile, "save", save_and_copy)
    patch.setattr(file_module, "write_all", write_and_copy)


async def _deliver(directory, log, file_bytes_max: int, *, flush_bytes_max: int) -> None:
    sink = FileSink(directory / "events", worker=0, file_bytes_max=file_bytes_max)
    async with shipping(directory, log, sink, flush_bytes_max=flush_bytes_max) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    await asyncio.sleep(0)
