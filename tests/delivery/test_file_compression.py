"""Closed files of the file sink are compressed beside delivery, whatever happens on the way."""

import errno
import fcntl
import os
import stat
import threading
import tracemalloc
from pathlib import Path

import pytest

from segsrv.files import write_all
from segsrv.sinks.file import compression as file_compression
from segsrv.sinks.file.compression import compress, drop_if_stale
from tests.delivery.stored_files import (
    MIB,
    NOON,
    READERS,
    batch,
    files,
    names,
    of_lines,
    opened,
    put,
    replacing,
    set_clock,
    stored,
)
from tests.waiting import until

NAME = "120000.000000-0a1b2c3d.ndjson"


@pytest.fixture(params=["gzip", "zstd", "parquet"])
def method(request) -> str:
    return request.param


def never() -> bool:
    return False


def closed_file(directory: Path, content: bytes = b'{"n":1}\n', name: str = NAME) -> Path:
    path = directory / "events" / "2026-11-23" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o440)
    return path


async def test_a_closed_file_is_compressed(tmp_path, monkeypatch, method):
    """It has the same lines, the time of its last event, and no right to be written."""
    set_clock(monkeypatch, NOON)
    async with opened(monkeypatch, tmp_path, file_bytes_max=1, file_compress=method) as sink:
        first = await put(sink, batch(1, 2), {})
        path = tmp_path / "events" / first["file"]
        os.utime(path, (1_000, 1_000))
        await put(sink, batch(3), first)
        await until(lambda: sink.stats.files_compressed == 1)

    compressed = replacing(path, method)
    assert compressed.name in names(tmp_path)
    assert len(names(tmp_path)) == 2
    assert stat.S_IMODE(compressed.stat().st_mode) == 0o440
    assert compressed.stat().st_mtime == 1_000
    assert stored(tmp_path) == [b'{"n":1}\n', b'{"n":2}\n', b'{"n":3}\n']


def test_a_large_file_takes_little_memory(tmp_path, method):
    """However large a file is, a small piece of it is in memory."""
    path = closed_file(tmp_path, b'{"n":"%b"}\n' % (b"x" * 1_000) * (32 << 10))
    content = path.read_bytes()
    tracemalloc.start()
    try:
        assert compress(path, method, never)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 4 * MIB
    (compressed,) = files(tmp_path)
    assert READERS[compressed.suffix](compressed.read_bytes()) == content


async def test_delivery_does_not_wait_for_it(tmp_path, monkeypatch):
    """While a file is compressed, by a thread of low priority, batches go to the next one."""
    is_compressing, may_go_on = threading.Event(), threading.Event()
    priorities = []

    def write_when_told(fd, parts) -> None:
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        is_compressing.set()
        may_go_on.wait()
        write_all(fd, parts)

    monkeypatch.setattr(file_compression, "write_all", write_when_told)
    async with opened(monkeypatch, tmp_path, file_bytes_max=10, file_compress="gzip") as sink:
        try:
            last: dict = {}
            for number in range(3):
                last = await put(sink, batch(number), last)
            await until(is_compressing.is_set)
            for number in range(3, 6):
                last = await put(sink, batch(number), last)
            assert len(stored(tmp_path)) == 6
        finally:
            may_go_on.set()
        await until(lambda: sink.stats.files_compressed == 2)

    assert len(stored(tmp_path)) == 6
    assert min(priorities) > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.parametrize("method", ["gzip", "zstd"])
async def test_a_stop_does_not_wait_for_it(tmp_path, monkeypatch, method):
    """A server that stops leaves a file that is being compressed as it was."""
    path = closed_file(tmp_path, b'{"n":1}\n' * (MIB // 8) * 4)
    is_compressing = threading.Event()

    def write_and_tell(fd, parts) -> None:
        is_compressing.set()
        sink._upkeep._is_stopping.wait()
        write_all(fd, parts)

    monkeypatch.setattr(file_compression, "write_all", write_and_tell)
    async with opened(monkeypatch, tmp_path, file_compress=method) as sink:
        await until(is_compressing.is_set)

    assert names(tmp_path) == [path.name]


class TestFaults:
    @pytest.mark.parametrize("method", ["gzip", "zstd"])
    async def test_a_full_disk(self, tmp_path, monkeypatch, method, caplog):
        """The file stays as it is, the fault is counted and said once, and it is tried again."""
        path = closed_file(tmp_path)
        monkeypatch.setattr(file_compression, "write_all", refuse(errno.ENOSPC))
        monkeypatch.setattr("segsrv.sinks.file.upkeep.SCAN_INTERVAL_S", 0.0)
        async with opened(monkeypatch, tmp_path, file_compress=method) as sink:
            await until(lambda: sink.stats.faults > 2)
            assert path.name in names(tmp_path)
            monkeypatch.setattr(file_compression, "write_all", write_all)
            await until(lambda: sink.stats.files_compressed)

        assert names(tmp_path) == [replacing(path, method).name]
        assert caplog.text.count("No space left") == 1

    async def test_one_that_can_not_be_read(self, tmp_path, monkeypatch, method):
        """One bad file keeps no other from being compressed."""
        bad = closed_file(tmp_path, name=NAME.replace("12", "11"))
        good = closed_file(tmp_path)
        open_file = os.open

        def open_good(path, *arguments, **options) -> int:
            if Path(path) == bad:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return open_file(path, *arguments, **options)

        monkeypatch.setattr(os, "open", open_good)
        async with opened(monkeypatch, tmp_path, file_compress=method) as sink:
            await until(lambda: sink.stats.files_compressed)
            assert sink.stats.faults == 1

        assert names(tmp_path) == [bad.name, replacing(good, method).name]


def refuse(number: int):
    def write(_fd, _parts) -> None:
        raise OSError(number, os.strerror(number))

    return write


class TestLeftOver:
    """What a crash, or another server, left behind."""

    @pytest.mark.parametrize("now", ["none", "gzip", "zstd", "parquet"])
    async def test_both_files(self, tmp_path, monkeypatch, method, now):
        """The original goes, and one compressed file is left, whatever the settings are now."""
        path = closed_file(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", lambda *_arguments, **_options: None)
            compress(path, method, never)
        assert len(names(tmp_path)) == 2
        assert stored(tmp_path) == [b'{"n":1}\n']

        async with opened(monkeypatch, tmp_path, file_compress=now) as sink:
            await until(lambda: sink.stats.files_compressed)

        assert names(tmp_path) == [replacing(path, method).name]
        assert stored(tmp_path) == [b'{"n":1}\n']

    @pytest.mark.parametrize("is_there", [True, False], ids=["original", "no_original"])
    async def test_temporary_files(self, tmp_path, monkeypatch, method, is_there):
        """They are removed at the next start."""
        path = closed_file(tmp_path)
        temporary = path.with_name(f"{replacing(path, method).name}.tmp")
        temporary.write_bytes(b"half")
        if not is_there:
            path.unlink()
        async with opened(monkeypatch, tmp_path):
            await until(lambda: not temporary.exists())

        assert names(tmp_path) == [path.name] * is_there

    def test_what_another_process_is_at(self, tmp_path, method):
        """Several servers on one folder compress a file once, and leave each other's work alone."""
        path = closed_file(tmp_path)
        temporary = path.with_name(f"{replacing(path, method).name}.tmp")
        temporary.write_bytes(b"half")
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert not compress(path, method, never)
            drop_if_stale(temporary)
            assert temporary.read_bytes() == b"half"
        assert compress(path, method, never)
        assert not compress(path, method, never)

        assert names(tmp_path) == [replacing(path, method).name]

    def test_what_another_process_has_just_done(self, tmp_path, monkeypatch, method):
        """A file that another one compressed and removed before the lock was had is not again."""
        path = closed_file(tmp_path)
        lock = fcntl.flock

        def remove_and_lock(*arguments) -> None:
            path.unlink()
            lock(*arguments)

        monkeypatch.setattr(fcntl, "flock", remove_and_lock)
        assert not compress(path, method, never)

        assert names(tmp_path) == []

    async def test_files_that_are_no_closed_files_of_ours(self, tmp_path, monkeypatch, method):
        """Open files, links and names of others are left alone; retention knows no others too."""
        day = tmp_path / "events" / "2026-11-23"
        closed_file(tmp_path).chmod(0o640)
        others = [
            "notes.ndjson",
            "120000-0a1b2c3d.ndjson",
            f"{NAME}.bz2",
            f"{NAME}.tmp",
            "x.gz.tmp",
        ]
        for name in others:
            closed_file(tmp_path, name=name)
        (day / NAME.replace("12", "14")).mkdir()
        other = tmp_path / "events" / "other" / NAME
        other.parent.mkdir()
        other.write_bytes(b"{}\n")
        other.chmod(0o440)
        (tmp_path / "events" / "2026-11-24").symlink_to(other.parent)
        link = day / NAME.replace("12", "13")
        link.symlink_to(other)
        for path in (other, link):
            os.utime(path, (1_000, 1_000), follow_symlinks=False)
        before = names(tmp_path)

        options = {"file_total_bytes_max": 1, "file_retention_s": 1}
        async with opened(monkeypatch, tmp_path, file_compress=method, **options) as sink:
            last = await put(sink, batch(1), {})
            await put(sink, of_lines(b'{"n":2}\n'), last)
            sink._upkeep._scan()

        assert set(before) <= set(names(tmp_path))
        assert sink.stats.files_deleted == sink.stats.files_compressed == 0
