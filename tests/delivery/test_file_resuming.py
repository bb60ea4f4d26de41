"""The file sink between two saves of its cursor: what a restart finds there is stored once."""

import errno
import os
import shutil
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from segsrv.delivery import flow, standing
from segsrv.delivery.bundle import Filter
from segsrv.delivery.cursor import Cursor, CursorFile, InHand, Mark, Span
from segsrv.delivery.dedup import DedupIndex
from segsrv.delivery.judging import Judge
from segsrv.errors import SinkUnavailable
from segsrv.journal.log import SegmentLog
from segsrv.sinks.file import tail as file_tail
from segsrv.sinks.file import writer as file_writer
from segsrv.sinks.file.sink import FileSink
from tests.delivery.shipping import append_batch, cursor_path, kept, open_log, shipping
from tests.delivery.stored_files import MIB, NOON, files, set_clock, stored
from tests.waiting import until


@pytest.fixture(autouse=True)
def _save_seldom(monkeypatch):
    monkeypatch.setattr(standing, "SETTLE_S", 1_000.0)


def log_of(directory: Path, number: int) -> SegmentLog:
    folder = directory if number == 0 else directory / f"w{number}"
    return open_log(folder)


@asynccontextmanager
async def delivering(directory: Path, *logs: SegmentLog, file_bytes_max: int = MIB, **options):
    """Deliver all of *logs*; what is in the block sees it before the cursor is saved."""
    sink = FileSink(directory / "events", file_bytes_max=file_bytes_max)
    async with shipping(directory, logs[0], sink, others=logs[1:], **options) as shipper:
        await until(lambda: shipper.standing.is_known and shipper.lag_bytes == 0)
        yield shipper


async def crashed(tmp_path: Path, *logs: SegmentLog, **options) -> Path:
    """Deliver *logs* of `live`; return a copy from before the cursor said so."""
    live, copy = tmp_path / "live", tmp_path / "copy"
    async with delivering(live, *logs, **options) as shipper:
        assert kept(live).spans.get("w0", Span("", Mark(0), Mark(0))).start == Mark(0)
        assert shipper.standing.is_unsaved
        shutil.copytree(live, copy)
    return copy


@pytest.mark.parametrize("file_bytes_max", [MIB, 300], ids=["one_file", "many_files"])
@pytest.mark.parametrize("journals", [1, 3])
@pytest.mark.parametrize("events_max", [1_000, 4])
async def test_after_a_crash_readers_see_only_more(tmp_path, file_bytes_max, journals, events_max):
    """Whatever the batches are then, every byte stays, and every event is there once."""
    logs = [log_of(tmp_path / "live", number) for number in range(journals)]
    lines = [
        line
        for first in range(0, 60, 5)
        for number, log in enumerate(logs)
        for line in append_batch(log, *range(100 * number + first, 100 * number + first + 5))
    ]
    options = {"file_bytes_max": file_bytes_max}
    copy = await crashed(tmp_path, *logs, flush_bytes_max=70, flush_events_max=7, **options)
    before = {path: path.read_bytes() for path in files(copy)}
    inodes = {path: path.stat().st_ino for path in before}

    again = [log_of(copy, number) for number in range(journals)]
    lines += append_batch(again[0], 99)
    async with delivering(copy, *again, flush_events_max=events_max, **options):
        pass

    assert sorted(stored(copy)) == sorted(lines)
    for path, data in before.items():
        assert path.read_bytes().startswith(data)
        assert path.stat().st_ino == inodes[path]


@pytest.mark.parametrize("has_index", [True, False], ids=["sound", "lost"])
@pytest.mark.parametrize("events_max", [1_000, 2])
async def test_repetitions_are_left_out_again_after_a_crash(tmp_path, events_max, has_index):
    """What was judged and written is judged as before; without the index nothing is lost."""

    def judge(directory: Path) -> Judge:
        return Judge(6_000, lambda: DedupIndex(directory / "dedup", window_s=1e6, ids_max=6_000))

    live = tmp_path / "live"
    logs = [log_of(live, number) for number in range(2)]
    lines: list[bytes] = []
    for first in range(0, 40, 4):
        for log in logs:
            lines += append_batch(log, *range(first, first + 6))
    copy = await crashed(tmp_path, *logs, flush_bytes_max=40, flush_events_max=3, judge=judge(live))
    before = b"".join(path.read_bytes() for path in files(copy))
    assert sorted(stored(copy)) == sorted(set(lines))
    if not has_index:
        shutil.rmtree(copy / "dedup")

    again = [log_of(copy, number) for number in range(2)]
    last = append_batch(again[1], 0, 99)[1:]
    async with delivering(copy, *again, flush_events_max=events_max, judge=judge(copy)):
        pass

    assert set(stored(copy)) == {*lines, *last}
    if has_index:
        assert sorted(stored(copy)) == sorted({*lines, *last})
        assert b"".join(path.read_bytes() for path in files(copy)).startswith(before)


@pytest.mark.parametrize("torn", [b'{"n":', bytes(40), b'{"n":77,' + bytes(9) + b"}\n"])
async def test_what_a_crash_left_of_a_line(tmp_path, torn):
    """The part of a line, or zeros, give way to what follows; nothing before is touched."""
    log = log_of(tmp_path / "live", 0)
    lines = append_batch(log, 1, 2)
    copy = await crashed(tmp_path, log)
    with files(copy)[0].open("ab") as file:
        file.write(torn)

    again = log_of(copy, 0)
    lines += append_batch(again, 3)
    async with delivering(copy, again):
        pass

    assert stored(copy) == lines


async def test_what_the_journal_has_lost_since(tmp_path):
    """The only copy of an event stays where it is, and what comes behind it is there once."""
    log = log_of(tmp_path / "live", 0)
    lines = [line for number in range(6) for line in append_batch(log, number)]
    copy = await crashed(tmp_path, log)
    (segment,) = _segments(copy)
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b'{"n":2}', b'{"n":!}').replace(b'{"n":3}', b'{"n":!}'))

    again = log_of(copy, 0)
    lines += append_batch(again, 9)
    async with delivering(copy, again):
        pass

    assert stored(copy) == lines


def _segments(directory: Path):
    return [path for path in (directory / "journal").iterdir() if b'{"n":2}' in path.read_bytes()]


async def test_a_filter_that_lets_more_pass(tmp_path):
    """What differs from what would be written now is cut off, and nothing is there twice."""
    log = log_of(tmp_path / "live", 0)
    lines = [
        line
        for number in range(6)
        for line in append_batch(log, number, kind="page" if number % 2 else "track")
    ]
    copy = await crashed(tmp_path, log, picks=Filter(types=frozenset({"track"})))
    assert stored(copy) == lines[::2]

    async with delivering(copy, log_of(copy, 0)):
        pass

    assert stored(copy) == lines


@pytest.mark.parametrize("times", [1, 2])
async def test_a_sync_that_fails(tmp_path, monkeypatch, times):
    """All since the last good one is written again, and no cursor says that it is there before."""
    log, faults, written = log_of(tmp_path, 0), [errno.EIO] * times, []
    lines = append_batch(log, 1, 2)
    sync, rewrite = os.fdatasync, os.pwrite

    class Os:
        def __getattr__(self, name):
            return getattr(os, name)

        def fdatasync(self, fd):
            if faults:
                assert kept(tmp_path).spans.get("w0", Span("", Mark(0), Mark(0))).end == Mark(0)
                raise OSError(faults.pop(), "Input/output error")
            sync(fd)

        def pwrite(self, fd, data, offset):
            written.append(bytes(data))
            return rewrite(fd, data, offset)

    async with delivering(tmp_path, log) as shipper:
        monkeypatch.setattr(file_writer, "os", Os())
        monkeypatch.setattr(file_tail, "os", Os())
    assert not faults
    assert shipper.failures == times
    assert lines[0] + lines[1] in written
    assert stored(tmp_path) == lines
    assert kept(tmp_path).spans["w0"].end.position == log.end


@pytest.mark.parametrize("found", [0, 5, 16], ids=["nothing", "half a line", "all"])
async def test_what_an_earlier_release_had_in_hand(tmp_path, found):
    """A batch that its cursor had planned is there once, as are those before and behind it."""
    log = log_of(tmp_path, 0)
    first = append_batch(log, 1)
    start = log.end
    planned = append_batch(log, 2, 3)
    end = log.end
    name = "2026-11-23/140509.123456-1a2b3c4d.ndjson"
    path = tmp_path / "events" / name
    path.parent.mkdir(parents=True)
    path.write_bytes((first[0] + b"".join(planned))[: len(first[0]) + found])
    cursor = CursorFile(cursor_path(tmp_path))
    cursor.load()
    placement = {"file": name, "offset": len(first[0]), "bytes": 16}
    span = Span(log.id, Mark(start), Mark(end))
    cursor.save(Cursor({"w0": span}, placement, InHand("an-id", 2)))
    cursor.close()

    last = append_batch(log, 4)
    async with delivering(tmp_path, log):
        pass

    assert stored(tmp_path) == [*first, *planned, *last]


@pytest.mark.parametrize("is_working", [True, False])
async def test_what_is_set_aside_is_not_in_the_files(tmp_path, monkeypatch, is_working):
    """What was written and can't be made safe is set aside, and goes from the files."""
    log = log_of(tmp_path, 0)
    lines = append_batch(log, 1, 2)
    delivered = log.end
    asked: list[Mark] = []

    def move(marks):
        asked.append(marks["w0"])
        # After a crash now, nothing is in the files that is behind the cursor.
        assert kept(tmp_path).spans.get("w0", Span("", asked[0], asked[0])).end == asked[0]
        assert kept(tmp_path).placement["cut"]
        return {"w0": Mark(log.end)}

    def refuse():
        raise SinkUnavailable("no")

    async with delivering(tmp_path, log) as shipper:
        if not is_working:
            monkeypatch.setattr(shipper.sink.writer, "sync", refuse)
        await shipper.set_aside(move)
        monkeypatch.undo()
        last = append_batch(log, 3)
        shipper.wake()
        await until(lambda: stored(tmp_path)[-1:] == last)

    assert asked[0].position == (delivered if is_working else log.first)
    assert stored(tmp_path) == [*(lines if is_working else []), *last]


async def test_a_place_that_takes_long_to_find(tmp_path, monkeypatch):
    """What a call in time could not end goes on: the next one waits for it, and begins no other."""
    log = log_of(tmp_path / "live", 0)
    lines = append_batch(log, 1, 2)
    copy = await crashed(tmp_path, log)
    failures: list[int] = []
    find = flow.pass_over

    def find_slowly(*arguments):
        failures.append(shipper.failures)
        while shipper.failures <= failures[-1]:
            time.sleep(0.001)
        return find(*arguments)

    monkeypatch.setattr(flow, "pass_over", find_slowly)
    again = log_of(copy, 0)
    lines += append_batch(again, 3)
    sink = FileSink(copy / "events")
    async with shipping(copy, again, sink, timeout_s=0.2) as shipper:
        await until(lambda: shipper.standing.is_known and shipper.lag_bytes == 0)

    assert len(failures) == 1
    assert stored(copy) == lines


async def test_a_set_aside_while_the_place_is_looked_for(tmp_path, monkeypatch):
    """What was written and not synced before the look, which fails, is set aside with the rest."""
    log = log_of(tmp_path, 0)
    append_batch(log, 1, 2)
    asked: list[Mark] = []

    def move(marks):
        asked.append(marks["w0"])
        return {"w0": Mark(log.end)}

    def refuse(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    async with delivering(tmp_path, log) as shipper:
        with monkeypatch.context() as patched:
            patched.setattr(flow, "pass_over", refuse)
            # As after a call that was given up and has not ended well.
            shipper.sink.writer.place = None
            append_batch(log, 3)
            shipper.wake()
            await until(lambda: shipper.failures > 0)
            await shipper.set_aside(move)
        last = append_batch(log, 4)
        shipper.wake()
        await until(lambda: stored(tmp_path)[-1:] == last)

    assert asked == [Mark(log.first)]
    assert stored(tmp_path) == last


async def test_a_file_that_is_moved_while_the_place_is_lost_is_synced(tmp_path, monkeypatch):
    """The cursor says that events are delivered only when they are safe, wherever they are."""
    log, synced = log_of(tmp_path, 0), []
    lines = append_batch(log, 1, 2)
    sync = os.fdatasync

    class Os:
        def __getattr__(self, name):
            return getattr(os, name)

        def fdatasync(self, fd):
            sync(fd)
            synced.append(os.fstat(fd).st_ino)

    async with delivering(tmp_path, log) as shipper:
        monkeypatch.setattr(file_writer, "os", Os())
        monkeypatch.setattr(file_tail, "os", Os())
        moved = files(tmp_path)[0].rename(tmp_path / "moved")
        shipper.sink.writer.place = None
        last = append_batch(log, 3)
        shipper.wake()
        await until(lambda: shipper.lag_bytes == 0)

    assert moved.read_bytes() == b"".join(lines)
    assert stored(tmp_path) == last
    assert moved.stat().st_ino in synced


async def test_a_clock_that_is_set_back_by_a_day(tmp_path, monkeypatch):
    """The cursor knows of the earlier day's file before there is anything in it."""
    set_clock(monkeypatch, NOON)
    log = log_of(tmp_path / "live", 0)
    lines = append_batch(log, 1)
    async with delivering(tmp_path / "live", log) as shipper:
        set_clock(monkeypatch, NOON - timedelta(days=2))
        # Full by now.
        monkeypatch.setattr(shipper.sink.writer, "_file_bytes_max", 1)
        lines += append_batch(log, 2)
        shipper.wake()
        await until(lambda: shipper.lag_bytes == 0)
        shutil.copytree(tmp_path / "live", tmp_path / "copy")
    with files(tmp_path / "copy")[0].open("ab") as file:
        file.write(b"{")
    again = log_of(tmp_path / "copy", 0)
    lines += append_batch(again, 3)
    async with delivering(tmp_path / "copy", again):
        pass

    assert sorted(stored(tmp_path / "copy")) == lines
    assert len(files(tmp_path / "copy")) == 2


async def test_a_file_is_closed_when_no_cursor_asks_for_it(tmp_path, monkeypatch):
    """Not when the next one begins, but once both slots of the cursor are behind it."""
    log = log_of(tmp_path, 0)
    for number in range(4):
        append_batch(log, number)
    options = {"file_bytes_max": 10, "flush_events_max": 1}
    async with delivering(tmp_path, log, **options) as shipper:
        assert all(path.stat().st_mode & 0o222 for path in files(tmp_path))
        monkeypatch.setattr(standing, "SETTLE_S", 0.0)
        await until(lambda: shipper.standing.file.is_settled)
        await until(lambda: not files(tmp_path)[0].stat().st_mode & 0o222)

    modes = [bool(path.stat().st_mode & 0o222) for path in files(tmp_path)]
    assert modes == [False] * (len(modes) - 1) + [True]
    assert len(modes) == 2


async def test_a_disk_that_runs_full(tmp_path, monkeypatch):
    """Readers see no half line while it is full, and every event once afterwards."""
    log = log_of(tmp_path, 0)
    lines = append_batch(log, 1)
    write, seen = file_writer.write_all, []

    def run_full(fd, parts):
        if len(seen) < 2:
            seen.append(stored(tmp_path))
            write(fd, [b"".join(parts)[:4]])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(fd, parts)

    async with delivering(tmp_path, log) as shipper:
        monkeypatch.setattr(file_writer, "write_all", run_full)
        lines += append_batch(log, 2, 3)
        shipper.wake()
        await until(lambda: shipper.lag_bytes == 0)

    assert seen == [lines[:1]] * 2
    assert shipper.failures == 2
    assert stored(tmp_path) == lines
