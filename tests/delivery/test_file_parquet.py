"""Closed files of the file sink become Parquet, and those that can't stay as they are."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from segsrv.errors import NotConverted, SettingsError, SinkUnavailable
from segsrv.settings import Settings
from segsrv.sinks import parquet
from segsrv.sinks.file import compression as file_compression
from segsrv.sinks.file import parquet as file_parquet
from segsrv.sinks.file.compression import compress
from segsrv.sinks.registry import build
from tests.delivery.stored_files import (
    NOON,
    batch,
    files,
    names,
    opened,
    put,
    replacing,
    set_clock,
    stored,
)
from tests.disks import small_disk
from tests.server_process import REPOSITORY
from tests.waiting import until

NAME = "120000.000000-0a1b2c3d.ndjson"
FIND_COMPLETE = re.search(
    r"^find .* /222$", (REPOSITORY / "docs" / "files.md").read_text(), re.MULTILINE
)[0]


def closed_file(directory: Path, content: bytes = b'{"n":1}\n', name: str = NAME) -> Path:
    path = directory / "events" / "2026-11-23" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o440)
    return path


def never() -> bool:
    return False


async def test_a_stop_does_not_wait_for_it(tmp_path, monkeypatch):
    """A server that stops leaves a file that is being converted as it was."""
    path = closed_file(tmp_path, b'{"n":"%b"}\n' % (b"x" * 90) * 500_000)
    temporary = path.with_suffix(".parquet.tmp")
    async with opened(monkeypatch, tmp_path, file_compress="parquet"):
        await until(lambda: temporary.exists() and temporary.stat().st_size)

    assert names(tmp_path) == [path.name]


async def test_the_thread_has_a_low_priority(tmp_path, monkeypatch):
    """The thread that converts yields to the others, and is the one that does the work."""
    seen = []
    run = parquet.Conversion.run

    def run_and_tell(conversion) -> int:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return run(conversion)

    monkeypatch.setattr(parquet.Conversion, "run", run_and_tell)
    closed_file(tmp_path)
    async with opened(monkeypatch, tmp_path, file_compress="parquet") as sink:
        await until(lambda: sink.stats.files_compressed)

    assert min(seen) > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_a_full_disk(tmp_path, monkeypatch, caplog):
    """The file stays as it is, the fault is counted and said once, and it is tried again."""
    monkeypatch.setattr("segsrv.sinks.file.upkeep.SCAN_INTERVAL_S", 0.0)
    with small_disk(tmp_path, "tmpfs") as disk:
        lines = [b'{"n":"%b"}\n' % os.urandom(500).hex().encode() for _ in range(2_000)]
        path = closed_file(disk, b"".join(lines))
        filler = disk / "filler"
        filler.write_bytes(bytes(1_800_000))
        async with opened(monkeypatch, disk, file_compress="parquet") as sink:
            await until(lambda: sink.stats.faults > 2)
            assert path.exists()
            assert sink.stats.files_not_converted == 0
            assert caplog.text.count("No space left on device\n") == 1
            filler.unlink()
            await until(lambda: sink.stats.files_compressed)

        assert names(disk) == [replacing(path, "parquet").name]


class TestNotConverted:
    @pytest.mark.parametrize(
        "content",
        [b'{"n":1}\n{"n"', b'{"n":1}\n\0\0\0\0', b"no JSON\n", b'{"n":"\xff"}\n'],
        ids=["torn", "zeros", "no_json", "no_text"],
    )
    async def test_it_stays(self, tmp_path, monkeypatch, caplog, content):
        """A file that can't be Parquet stays, is counted and logged once, and holds up no other."""
        monkeypatch.setattr("segsrv.sinks.file.upkeep.SCAN_INTERVAL_S", 0.0)
        bad = closed_file(tmp_path, content, NAME.replace("12", "11"))
        good = closed_file(tmp_path)
        looked: list[Path] = []

        def look(path: Path, *arguments: object) -> bool:
            looked.append(path)
            return compress(path, *arguments)

        monkeypatch.setattr("segsrv.sinks.file.upkeep.compress", look)
        async with opened(monkeypatch, tmp_path, file_compress="parquet") as sink:
            await until(lambda: sink.stats.files_compressed)
            ticks: list[None] = []
            sink._upkeep._on_tick = lambda: ticks.append(None)
            await until(lambda: len(ticks) > 3)

        assert names(tmp_path) == [bad.name, replacing(good, "parquet").name]
        assert bad.read_bytes() == content
        assert sink.stats.files_not_converted == 1
        assert looked.count(bad) == 1
        assert caplog.text.count("can't be Parquet") == 1

    async def test_it_is_tried_after_a_start(self, tmp_path, monkeypatch):
        """Another release may be able to, so each start tries again."""
        bad = closed_file(tmp_path, b"no JSON\n")
        for _start in range(2):
            async with opened(monkeypatch, tmp_path, file_compress="parquet") as sink:
                await until(lambda: sink.stats.files_not_converted)

        assert names(tmp_path) == [bad.name]


class TestComplete:
    """No event is in two complete files at any moment."""

    @pytest.mark.parametrize("method", ["gzip", "zstd", "parquet"])
    def test_each_step(self, tmp_path, monkeypatch, method):
        """The documented command finds one file for an event, or none, at each step."""
        path = closed_file(tmp_path)
        found: list[list[str]] = []

        def look() -> None:
            done = subprocess.run(
                ["/bin/sh", "-c", FIND_COMPLETE], cwd=tmp_path, capture_output=True, check=True
            )
            found.append([Path(name).name for name in done.stdout.decode().split()])

        def around(step):
            def look_and_step(*arguments, **options):
                look()
                try:
                    return step(*arguments, **options)
                finally:
                    look()

            return look_and_step

        for name in ("open_file", "publish", "sync_dir"):
            monkeypatch.setattr(file_compression, name, around(getattr(file_compression, name)))
        for name in ("replace", "unlink", "chmod"):
            monkeypatch.setattr(Path, name, around(getattr(Path, name)))
        assert compress(path, method, never)

        new = replacing(path, method).name
        assert found[0] == [path.name]
        assert found[-1] == [new]
        assert sorted(map(len, found)) == sorted(min(len(names), 1) for names in found)
        order = [names[0] for names in found if names]
        assert order == sorted(order, key=[path.name, new].index)

    @pytest.mark.parametrize("method", ["gzip", "zstd", "parquet"])
    async def test_a_crash_before_the_last_step(self, tmp_path, monkeypatch, method):
        """The next start completes a file whose original is gone."""
        path = closed_file(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(file_compression, "complete", lambda _path: None)
            assert compress(path, method, never)
        new = replacing(path, method)
        assert new.stat().st_mode & 0o222
        async with opened(monkeypatch, tmp_path):
            await until(lambda: not new.stat().st_mode & 0o222)

        assert names(tmp_path) == [new.name]


class TestSentAgain:
    async def test_other_batches_follow(self, tmp_path, monkeypatch):
        """A batch beyond the end of what became Parquet has a file of its own."""
        set_clock(monkeypatch, NOON)
        async with opened(monkeypatch, tmp_path) as sink:
            first = await put(sink, batch(1), {})
            planned = await sink.plan(batch(2), first)
            path = tmp_path / "events" / planned["file"]
            assert planned["file"] == first["file"]
            path.chmod(0o440)
            assert compress(path, "parquet", never)
            for _again in range(2):
                await sink.send(batch(1), first)
                await sink.send(batch(2), planned)

        assert sorted(stored(tmp_path)) == [b'{"n":1}\n', b'{"n":2}\n']

    async def test_a_damaged_file(self, tmp_path, monkeypatch):
        """What is no Parquet of ours is not taken for the batch."""
        set_clock(monkeypatch, NOON)
        async with opened(monkeypatch, tmp_path) as sink:
            planned = await put(sink, batch(1), {})
            path = tmp_path / "events" / planned["file"]
            path.unlink()
            damaged = replacing(path, "parquet")
            damaged.write_bytes(b"PAR1 of somebody else's PAR1")
            await sink.send(batch(1), planned)
            damaged.unlink()

        assert stored(tmp_path) == [b'{"n":1}\n']

    async def test_no_driver(self, tmp_path, monkeypatch):
        """Without the driver it can't be told, so the sink waits and says what is missing."""
        set_clock(monkeypatch, NOON)
        async with opened(monkeypatch, tmp_path) as sink:
            planned = await put(sink, batch(1), {})
            path = tmp_path / "events" / planned["file"]
            path.chmod(0o440)
            assert compress(path, "parquet", never)
            monkeypatch.setitem(sys.modules, "segsrv.sinks.parquet", None)
            monkeypatch.delattr("segsrv.sinks.parquet")
            with pytest.raises(SinkUnavailable, match=r"install segsrv\[parquet\]"):
                await sink.send(batch(1), planned)
        with pytest.raises(NotConverted, match=r"install segsrv\[parquet\]"):
            compress(closed_file(tmp_path), "parquet", never)


class TestSettings:
    def of(self, tmp_path, **table: object):
        sink = {"name": "files", "url": f"file:{tmp_path}", "encoding": "parquet"}
        return Settings(sinks=[sink | table], data_dir=tmp_path / "data")

    async def test_encoding(self, tmp_path, monkeypatch):
        """`encoding = "parquet"` in a sink's table has its closed files converted."""
        [built] = build(self.of(tmp_path / "events"), {})
        sink = built.sink
        monkeypatch.setattr("segsrv.sinks.file.upkeep.TICK_S", 0.005)
        closed_file(tmp_path)
        await sink.open()
        await until(lambda: sink.stats.files_compressed)
        await sink.close()

        assert [path.suffix for path in files(tmp_path)] == [".parquet"]

    def test_two_ways_at_once(self, tmp_path):
        """A method of compression of its own beside it is refused."""
        with pytest.raises(SettingsError, match="file_compress=zstd: expected none"):
            build(self.of(tmp_path, options={"file_compress": "zstd"}), {})

    def test_the_setting_for_all(self, tmp_path):
        """That for all file sinks is for the others."""
        settings = Settings(sinks=self.of(tmp_path).sinks, file_compress="zstd")
        assert build(settings, {})

    def test_no_driver(self, tmp_path, monkeypatch):
        """Without the extra, the sink that needs it says which one to install."""
        monkeypatch.setattr(file_parquet, "find_spec", lambda _name: None)
        with pytest.raises(SettingsError, match=r"sinks.files.*needs duckdb.*segsrv\[parquet\]"):
            build(self.of(tmp_path), {})
