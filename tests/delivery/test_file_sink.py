"""The file sink: every event once whatever step a crash hits, and files that are never harmed."""

import asyncio
import contextlib
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from segsrv.delivery.bundle import STEP_BYTES
from segsrv.delivery.cursor import CursorFile
from segsrv.errors import SinkUnavailable
from segsrv.files import write_all
from segsrv.sinks.file import compression as file_compression
from segsrv.sinks.file import sink as file_module
from segsrv.sinks.file import writer as file_writer
from segsrv.sinks.file.sink import FileSink
from segsrv.sinks.file.upkeep import Upkeep
from segsrv.sinks.file.writer import PAGE_BYTES, WRITEBACK_BYTES, FileWriter
from tests.delivery.shipping import MemorySink, append, open_log, shipping
from tests.delivery.stored_files import (
    MIB,
    NOON,
    batch,
    files,
    names,
    of_lines,
    put,
    set_clock,
    stored,
)
from tests.waiting import until


@pytest.fixture
async def sink(tmp_path):
    sink = FileSink(tmp_path / "events", file_bytes_max=MIB)
    await sink.open()
    yield sink
    await sink.close()


class TestFiles:
    async def test_batches_share_the_file_of_their_day(self, tmp_path, sink, monkeypatch):
        """One day is one folder, and a small day one file, named for the documented pattern."""
        set_clock(monkeypatch, NOON)
        placement = await put(sink, batch(1, 2), {})
        await put(sink, batch(3), placement)

        files = list((tmp_path / "events").glob("**/*.ndjson"))
        assert [file.parent.name for file in files] == ["2026-11-23"]
        assert stored(tmp_path) == [b'{"n":1}\n', b'{"n":2}\n', b'{"n":3}\n']

    async def test_it_gets_little_at_once(self, tmp_path, monkeypatch):
        """A large piece keeps requests waiting; a sink of batches still gets large ones."""
        with contextlib.closing(open_log(tmp_path)) as log:
            line = b'{"text":"%s"}\n' % (b"x" * 50_000)
            for _frame in range(60):
                log.append(line, 1)
            sizes, append_parts = [], FileWriter.append

            def note(writer, parts, last):
                sizes.append(sum(map(len, parts)))
                return append_parts(writer, parts, last)

            monkeypatch.setattr(FileWriter, "append", note)
            sink = FileSink(tmp_path / "events")
            async with shipping(tmp_path / "a", log, sink, flush_bytes_max=8 * MIB) as shipper:
                await until(lambda: not shipper.lag_bytes)
            memory = MemorySink()
            async with shipping(tmp_path / "b", log, memory, flush_bytes_max=8 * MIB) as shipper:
                await until(lambda: not shipper.lag_bytes)
        assert stored(tmp_path) == [line] * 60
        assert max(sizes) <= STEP_BYTES
        assert [batch.events for batch, _placement in memory.sent] == [60]

    async def test_what_a_step_left_does_not_wait_for_more(self, tmp_path):
        """Events wait for their interval once, however many steps they take."""
        with contextlib.closing(open_log(tmp_path)) as log:
            line = b'{"text":"%s"}\n' % (b"x" * 50_000)
            for _frame in range(25):
                log.append(line, 1)
            sink = FileSink(tmp_path / "events")
            options = {"flush_bytes_max": 8 * MIB, "flush_interval_s": 1_000.0}
            async with shipping(tmp_path, log, sink, **options) as shipper:
                await until(lambda: not shipper.lag_bytes)
        assert stored(tmp_path) == [line] * 25

    async def test_the_disk_is_told_to_begin_long_before_the_sync(self, tmp_path, monkeypatch):
        """Each page once, of every file and after a restart too: little is left for the sync."""
        begun: dict[str, int] = {}

        def note(fd, offset, size):
            name = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
            assert offset >= begun.get(name, 0)
            assert offset - begun.get(name, 0) <= WRITEBACK_BYTES + STEP_BYTES
            assert size >= WRITEBACK_BYTES - PAGE_BYTES
            assert (offset + size) % PAGE_BYTES == 0
            begun[name] = offset + size

        monkeypatch.setattr(file_writer, "begin_writeback", note)
        line = b'{"text":"%s"}\n' % (b"x" * 50_000)
        with contextlib.closing(open_log(tmp_path)) as log:
            for _start in range(2):
                for _frame in range(60):
                    log.append(line, 1)
                sink = FileSink(tmp_path / "events", file_bytes_max=4 * MIB)
                async with shipping(tmp_path, log, sink, flush_bytes_max=8 * MIB) as shipper:
                    await until(lambda shipper=shipper: not shipper.lag_bytes)
        assert stored(tmp_path) == [line] * 120
        sizes = {str(file): file.stat().st_size for file in files(tmp_path)}
        assert len(sizes) == 2
        for name, size in sizes.items():
            assert size - begun.get(name, 0) <= WRITEBACK_BYTES + STEP_BYTES

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
        sink = FileSink(tmp_path / "events", file_bytes_max=20)
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
        other = FileSink(tmp_path / "events", file_bytes_max=MIB)
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
        sink = FileSink(tmp_path / "events", file_bytes_max=MIB)
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

    @pytest.mark.parametrize(
        ("file_bytes_max", "compression"),
        [(MIB, "none"), (40, "none"), (40, "gzip"), (40, "zstd"), (40, "parquet")],
        ids=["one_file", "many_files", "gzip", "zstd", "parquet"],
    )
    @pytest.mark.parametrize("days", [0, 1], ids=["same_day", "next_day"])
    async def test_every_event_is_stored_once(
        self, tmp_path, monkeypatch, file_bytes_max, compression, days
    ):
        """Wherever the crash hits (plan, part of a write, compression, cursor), nothing is lost or
        twice.
        """
        set_clock(monkeypatch, NOON)
        options = {"file_bytes_max": file_bytes_max, "file_compress": compression}
        live = tmp_path / "live"
        copies: list[Path] = []

        def copy_all() -> None:
            copies.append(tmp_path / f"crash-{len(copies)}")
            shutil.copytree(live, copies[-1])

        _compress_at_once(monkeypatch)
        log = open_log(live)
        lines = append(log, *range(9))
        three_frames = log.end // 3
        with monkeypatch.context() as patch:
            _copy_at_each_step(patch, copy_all)
            await _deliver(live, log, options, flush_bytes_max=three_frames)
            log.close()
        assert stored(live) == lines
        assert len(copies) > 3 * 6 + (0 if compression == "none" else 2 * 5)

        set_clock(monkeypatch, NOON + timedelta(days=days))
        for copy in copies:
            log = open_log(copy)
            lines_now = lines + append(log, 9)
            await _deliver(copy, log, options, flush_bytes_max=MIB)
            log.close()
            assert stored(copy) == lines_now, copy.name
            _check_compressed(copy, compression)


def _compress_at_once(patch) -> None:
    """Have upkeep done in the writer's own thread, so that each run goes the same way."""
    patch.setattr(Upkeep, "start", Upkeep._scan)
    patch.setattr(Upkeep, "file_closed", Upkeep._scan)


def _copy_at_each_step(patch, copy_all) -> None:
    """Copy before and after each step of the writer, of the compression and of the cursor."""

    def around(step):
        def copy_and_step(*arguments, **options):
            copy_all()
            result = step(*arguments, **options)
            copy_all()
            return result

        return copy_and_step

    def write_and_copy(fd, parts) -> None:
        copy_all()
        data = b"".join(parts)
        for offset in range(0, len(data), 10):
            write_all(fd, [data[offset : offset + 10]])
            copy_all()

    patch.setattr(CursorFile, "save", around(CursorFile.save))
    patch.setattr(file_writer, "write_all", write_and_copy)
    for name in ("fdatasync", "ftruncate"):
        patch.setattr(os, name, around(getattr(os, name)))
    patch.setattr(file_compression, "write_all", write_and_copy)
    for name in ("open_file", "publish"):
        patch.setattr(file_compression, name, around(getattr(file_compression, name)))
    for name in ("replace", "unlink", "chmod"):
        patch.setattr(Path, name, around(getattr(Path, name)))


def _check_compressed(directory: Path, compression: str) -> None:
    """Check that all but the last file are compressed, and nothing is left over."""
    *closed, _last = names(directory)
    suffix = {"gzip": ".ndjson.gz", "zstd": ".ndjson.zst", "parquet": ".parquet"}.get(
        compression, ".ndjson"
    )
    assert all(name.endswith(suffix) for name in closed)


async def _deliver(directory, log, options: dict, *, flush_bytes_max: int) -> None:
    sink = FileSink(directory / "events", **options)
    async with shipping(directory, log, sink, flush_bytes_max=flush_bytes_max) as shipper:
        await until(lambda: shipper.lag_bytes == 0)
    await asyncio.sleep(0)
