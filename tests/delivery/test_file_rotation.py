"""When the file sink's files begin and end, what their names say, and which are complete."""

import gzip
import os
import re
import stat
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from segsrv.errors import SinkUnavailable
from segsrv.sinks.file.compression import zstd
from segsrv.sinks.file.open_files import OpenFiles
from tests.delivery.stored_files import (
    MIB,
    NOON,
    batch,
    files,
    names,
    of_lines,
    opened,
    put,
    set_clock,
    stored,
)
from tests.server_process import REPOSITORY
from tests.waiting import until

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
DOCS = (REPOSITORY / "docs" / "files.md").read_text()
FIND_COMPLETE = re.search(r"^find .* /222$", DOCS, re.MULTILINE)[0]
READ_ALL = re.search(r"^find [^\n]* do$.*?^done$", DOCS, re.MULTILINE | re.DOTALL)[0]


def printed(directory: Path, script: str) -> list[str]:
    """Return the lines that a documented script prints."""
    command = ["sh", "-c", script]
    ended = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()


def is_closed(directory: Path, placement: dict) -> bool:
    return not (directory / "events" / placement["file"]).stat().st_mode & 0o222


class TestRotation:
    async def test_an_hour_has_a_file_of_its_own(self, tmp_path, monkeypatch):
        """With `hour` each hour has a file in the day's folder, and names are in order."""
        async with opened(monkeypatch, tmp_path, file_rotate="hour") as sink:
            placement: dict = {}
            for number in range(6):
                set_clock(monkeypatch, NOON + number * HOUR / 2)
                placement = await put(sink, batch(number), placement)

        assert [path.parent.name for path in files(tmp_path)] == ["2026-11-23"] * 3
        assert stored(tmp_path) == [b'{"n":%d}\n' % number for number in range(6)]

    @pytest.mark.parametrize("rotation", ["day", "hour"])
    @pytest.mark.parametrize("file_bytes_max", [MIB, 1])
    async def test_names_keep_the_order_when_the_clock_goes_back(
        self, tmp_path, monkeypatch, rotation, file_bytes_max
    ):
        """Within a day, files sort in the order of delivery, also after the clock was set back."""
        options = {"file_rotate": rotation, "file_bytes_max": file_bytes_max}
        async with opened(monkeypatch, tmp_path, **options) as sink:
            placement: dict = {}
            for number, minutes in enumerate([0, 0, -5, -90, -90, 10, 200]):
                set_clock(monkeypatch, NOON + timedelta(minutes=minutes))
                placement = await put(sink, batch(number), placement)

        assert stored(tmp_path) == [b'{"n":%d}\n' % number for number in range(7)]

    async def test_writers_are_told_apart_by_their_marks(self, tmp_path, monkeypatch):
        """A name is a time and a mark, which stays with the writer over a restart."""
        last: list[dict] = [{}, {}]
        for hour in range(3):
            set_clock(monkeypatch, NOON + hour * HOUR)
            for writer in (0, 1):
                async with opened(monkeypatch, tmp_path, file_rotate="hour") as sink:
                    last[writer] = await put(sink, batch(hour), last[writer])

        marks = [re.fullmatch(r"\d{6}\.\d{6}-([0-9a-f]{8})\.ndjson", n)[1] for n in names(tmp_path)]
        assert sorted(marks.count(mark) for mark in set(marks)) == [3, 3]

    async def test_the_placement_of_an_earlier_release(self, tmp_path, monkeypatch):
        """A batch that was planned under an older name is stored there; the next one is not."""
        set_clock(monkeypatch, NOON)
        old = {
            "file": "2026-11-23/w0-w0-file-00000000000000000512-0a1b2c3d.ndjson",
            "offset": 0,
            "bytes": batch(1).size,
        }
        async with opened(monkeypatch, tmp_path) as sink:
            await sink.send(batch(1), old)
            await sink.send(batch(1), old)
            placement = await put(sink, batch(2), old)

        assert placement["file"] != old["file"]
        assert sorted(stored(tmp_path)) == [b'{"n":1}\n', b'{"n":2}\n']


class TestClosing:
    async def test_a_file_is_closed_when_the_next_one_begins(self, tmp_path, monkeypatch):
        """The last file can be written; those before it have lost the right to."""
        async with opened(monkeypatch, tmp_path, file_bytes_max=1, file_mode=0o664) as sink:
            placement: dict = {}
            for number in range(3):
                placement = await put(sink, batch(number), placement)
            modes = [stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)]

        assert modes == [0o444, 0o444, 0o664]

    async def test_a_file_is_closed_when_its_time_is_over(self, tmp_path, monkeypatch):
        """Without another event the file is closed too, and not before its day ends."""
        set_clock(monkeypatch, NOON + DAY / 2 - timedelta(seconds=1))
        async with opened(monkeypatch, tmp_path) as sink:
            placement = await put(sink, batch(1), {})
            sink._close_if_over()
            assert not is_closed(tmp_path, placement)
            set_clock(monkeypatch, NOON + DAY / 2)
            await until(lambda: is_closed(tmp_path, placement))
            assert sink.stats.files_closed == 1

    async def test_not_while_a_batch_is_on_its_way(self, tmp_path, monkeypatch):
        """A batch that was planned before the end goes to the file that it was planned for."""
        set_clock(monkeypatch, NOON)
        async with opened(monkeypatch, tmp_path) as sink:
            first = await put(sink, batch(1), {})
            planned = await sink.plan(batch(2), first)
            set_clock(monkeypatch, NOON + DAY)
            sink._close_if_over()
            assert not is_closed(tmp_path, planned)
            await sink.send(batch(2), planned)
            await until(lambda: is_closed(tmp_path, planned))

        assert planned["file"] == first["file"]
        assert len(stored(tmp_path)) == 2

    async def test_not_before_the_cursor_is_known(self, tmp_path, monkeypatch):
        """After a start a batch may still be on its way to an old file, until delivery says so."""
        set_clock(monkeypatch, NOON)
        async with opened(monkeypatch, tmp_path) as sink:
            planned = await put(sink, batch(1), {})
        set_clock(monkeypatch, NOON + 3 * DAY)
        path = tmp_path / "events" / planned["file"]
        path.write_bytes(path.read_bytes()[:-3])  # A crash in the middle of it.
        async with opened(monkeypatch, tmp_path, file_compress="gzip") as sink:
            sink._close_if_over()
            sink._upkeep._scan()
            assert not is_closed(tmp_path, planned)
            await sink.send(batch(1), planned)
            await until(lambda: names(tmp_path) == [path.name + ".gz"])

        assert stored(tmp_path) == [b'{"n":1}\n']

    async def test_what_a_crash_left_open_is_closed(self, tmp_path, monkeypatch):
        """The first plan closes the writer's earlier files, and nobody else's."""
        set_clock(monkeypatch, NOON)
        last: dict = {}
        with monkeypatch.context() as patch:
            patch.setattr(OpenFiles, "close", lambda *_arguments: None)
            async with opened(monkeypatch, tmp_path, file_bytes_max=1) as sink:
                other = await put(sink, batch(10), {})
                mine = [last := await put(sink, batch(number), last) for number in range(3)]
        async with opened(monkeypatch, tmp_path) as sink:
            await sink.plan(batch(3), mine[-1])

        assert [is_closed(tmp_path, placement) for placement in mine] == [True, True, False]
        assert not is_closed(tmp_path, other)

    async def test_a_closed_file_is_left_when_the_clock_goes_back(self, tmp_path, monkeypatch):
        """Nothing is added to a file that readers were told is complete."""
        set_clock(monkeypatch, NOON)
        async with opened(monkeypatch, tmp_path) as sink:
            first = await put(sink, batch(1), {})
            set_clock(monkeypatch, NOON + DAY)
            await until(lambda: is_closed(tmp_path, first))
            set_clock(monkeypatch, NOON)
            second = await put(sink, batch(2), first)

        assert second["file"] > first["file"]
        assert stored(tmp_path) == [b'{"n":1}\n', b'{"n":2}\n']

    @pytest.mark.parametrize("compression", ["none", "gzip", "zstd", "parquet"])
    async def test_the_documented_command_finds_what_is_complete(
        self, tmp_path, monkeypatch, compression
    ):
        """A shell can list the complete files: all but the one that is written to."""
        async with opened(
            monkeypatch, tmp_path, file_bytes_max=1, file_compress=compression
        ) as sink:
            placement: dict = {}
            for number in range(3):
                placement = await put(sink, batch(number), placement)
            count = 2 if compression != "none" else 0
            await until(lambda: sink.stats.files_compressed == count)
            found = printed(tmp_path, FIND_COMPLETE)

        assert sorted(found) == [str(path.relative_to(tmp_path)) for path in files(tmp_path)[:2]]
        assert files(tmp_path)[2].name == Path(placement["file"]).name

    async def test_the_documented_script_reads_every_event_once(self, tmp_path, monkeypatch):
        """Compressed or not, and of two files for one, as a crash leaves them, one is read."""
        async with opened(monkeypatch, tmp_path, file_bytes_max=1, file_compress="gzip") as sink:
            placement: dict = {}
            for number in range(3):
                placement = await put(sink, batch(number), placement)
            await until(lambda: sink.stats.files_compressed == 2)
        compressed = files(tmp_path)[0]
        compressed.with_suffix("").write_bytes(batch(0).content)

        assert printed(tmp_path, READ_ALL) == ['{"n":0}', '{"n":1}', '{"n":2}']


class TestSentAgain:
    """The cursor is older than the file: a crash hit before the next one was saved."""

    @pytest.mark.parametrize("compression", ["none", "gzip", "zstd", "parquet"])
    @pytest.mark.parametrize("number", [0, 1])
    async def test_a_batch_of_a_closed_file(self, tmp_path, monkeypatch, compression, number):
        """It is found there, compressed or not, and stored once."""
        set_clock(monkeypatch, NOON)
        options = {"file_bytes_max": 10, "file_compress": compression}
        async with opened(monkeypatch, tmp_path, **options) as sink:
            planned = [first := await put(sink, batch(0), {}), await put(sink, batch(1), first)]
            await put(sink, batch(2), planned[1])
            if compression != "none":
                await until(lambda: sink.stats.files_compressed == 1)
        before = names(tmp_path)
        assert len(before) == 2

        async with opened(monkeypatch, tmp_path) as sink:
            await sink.send(batch(number), planned[number])
            # What is left of it in a damaged journal changes nothing either.
            await sink.send(of_lines(b""), planned[number])

        assert names(tmp_path) == before
        assert stored(tmp_path) == [b'{"n":0}\n', b'{"n":1}\n', b'{"n":2}\n']

    @pytest.mark.parametrize("how", ["gzip", "zstd", "closed", "torn gzip"])
    @pytest.mark.parametrize("number", [0, 1])
    async def test_a_file_that_the_operator_took(self, tmp_path, monkeypatch, how, number):
        """A file that was compressed or closed by hand before the batch came does not have it."""
        async with opened(monkeypatch, tmp_path) as sink:
            planned: dict = {}
            for before in range(number):
                planned = await put(sink, batch(before), planned)
            planned = await sink.plan(batch(number), planned)
            path = tmp_path / "events" / planned["file"]
            if not number:
                path.parent.mkdir()
                path.touch()
            take(path, how)
            for _crash in range(2):
                await sink.send(batch(number), planned)
            await put(sink, batch(number + 1), planned)

        files_of_batch = list(path.parent.glob(f"{path.stem}-test-{number}.ndjson"))
        assert [file.read_bytes() for file in files_of_batch] == [batch(number).content]
        assert is_closed(tmp_path, {"file": files_of_batch[0].relative_to(tmp_path / "events")})


def take(path: Path, how: str) -> None:
    match how:
        case "closed":
            path.chmod(0o440)
        case "gzip":
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        case "torn gzip":
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes())[:-9])
            path.unlink()
        case "zstd":
            path.with_name(path.name + ".zst").write_bytes(zstd.compress(path.read_bytes()))
            path.unlink()


async def test_a_batch_that_was_given_up(tmp_path, monkeypatch):
    """What a crash left of a batch that is put aside is cut off, so that it may come again."""
    set_clock(monkeypatch, NOON)
    async with opened(monkeypatch, tmp_path) as sink:
        first = await put(sink, batch(1), {})
        planned = await sink.plan(batch(2, 3), first)
    path = tmp_path / "events" / planned["file"]
    path.write_bytes(path.read_bytes() + batch(2, 3).content[:-3])
    async with opened(monkeypatch, tmp_path) as sink:
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", broken_disk)
            with pytest.raises(SinkUnavailable):
                await sink.send(batch(2, 3), planned)
        placement = await put(sink, batch(4), planned)
        assert is_closed(tmp_path, first)
        await put(sink, batch(5), placement)

    assert stored(tmp_path) == [b'{"n":1}\n', b'{"n":4}\n', b'{"n":5}\n']


def broken_disk(*_arguments) -> None:
    raise OSError(5, "Input/output error")


async def test_a_file_deleted_while_it_is_written(tmp_path, monkeypatch):
    """What was written to a file that is gone by then is written to another one."""
    async with opened(monkeypatch, tmp_path) as sink:
        first = await put(sink, batch(1), {})
        planned = await sink.plan(batch(2), first)
        sync = os.fdatasync

        def delete_and_sync(fd: int) -> None:
            (tmp_path / "events" / planned["file"]).unlink()
            sync(fd)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", delete_and_sync)
            with pytest.raises(SinkUnavailable, match="No such file"):
                await sink.send(batch(2), planned)
        await sink.send(batch(2), planned)

    assert stored(tmp_path) == [b'{"n":2}\n']
