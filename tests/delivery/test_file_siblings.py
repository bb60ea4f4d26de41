"""Delivery goes on for others that fed the same file sink: what they wrote since they said so."""

from pathlib import Path

import pytest

from segsrv.delivery.cursor import Cursor, CursorFile, Mark, Span
from segsrv.delivery.inheritance import inherit
from segsrv.journal.log import SegmentLog
from segsrv.sinks.file.sink import FileSink
from tests.delivery.shipping import append_batch, cursor_path, open_log, shipping
from tests.delivery.stored_files import files, stored
from tests.waiting import until

SIBLINGS_FILE = "2026-11-23/140509.123456-1a2b3c4d.ndjson"


async def test_files_of_a_sibling_that_delivers_are_left_alone(tmp_path):
    """What another process has behind its cursor it may be writing: not cut, and not closed."""
    log = open_log(tmp_path)
    lines = append_batch(log, 1, 2)
    path = tmp_path / "events" / SIBLINGS_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"n":71}\n{"n":72}\n{"n":7')
    was = path.stat()
    _save_siblings(tmp_path, {"w1": Span("b" * 32, Mark(40), Mark(40))}, offset=9)

    await _deliver(tmp_path, log)
    path_is, written = path.stat(), path.read_bytes()

    assert written == b'{"n":71}\n{"n":72}\n{"n":7'
    assert (path_is.st_mode, path_is.st_mtime_ns) == (was.st_mode, was.st_mtime_ns)
    assert [each.read_bytes() for each in files(tmp_path) if each != path] == [b"".join(lines)]


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_part_of_what_a_sibling_had_is_taken_over(tmp_path, is_lost):
    """Its journals are shared out: what it wrote is passed over, and left to whoever has it."""
    log = open_log(tmp_path)
    lines = append_batch(log, 1, 2)
    last = append_batch(log, 3)
    path = tmp_path / "events" / SIBLINGS_FILE
    path.parent.mkdir(parents=True)
    # Out of order: one of this journal that was to come later.
    before = b'{"n":71}\n' + (last[0] if is_lost else b"".join(lines)) + b'{"n":72}\n'
    path.write_bytes(before)
    spans = {"w0": Span(log.id, Mark(log.first), Mark(log.first))}
    _save_siblings(tmp_path, spans | {"w1": Span("b" * 32, Mark(40), Mark(40))}, offset=0)

    await _deliver(tmp_path, log)

    assert path.read_bytes() == before
    own = [each for each in files(tmp_path) if each != path]
    assert b"".join(map(Path.read_bytes, own)) == b"".join([*(lines if is_lost else []), *last])


async def test_all_that_a_sibling_had_is_taken_over(tmp_path):
    """Of one that is gone for good, half a line is cut, and its file is closed."""
    log = open_log(tmp_path)
    lines = append_batch(log, 1, 2)
    last = append_batch(log, 3)
    path = tmp_path / "events" / SIBLINGS_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(lines) + b'{"n":')
    spans = {"w0": Span(log.id, Mark(log.first), Mark(log.first))}
    siblings = _save_siblings(tmp_path, spans, offset=0)

    for _start in range(2):
        await _deliver(tmp_path, log)
        assert sorted(stored(tmp_path)) == sorted([*lines, *last])
    assert path.read_bytes() == b"".join(lines)
    assert not path.stat().st_mode & 0o222
    assert not siblings.exists()


async def _deliver(directory: Path, log: SegmentLog) -> None:
    own, sink = cursor_path(directory), FileSink(directory / "events")
    options = {"inherit": lambda cursor: inherit(own.parent, "test", own, cursor, ["w0"])}
    async with shipping(directory, log, sink, **options) as shipper:
        await until(lambda: shipper.standing.is_known and shipper.lag_bytes == 0)


def _save_siblings(directory: Path, spans: dict[str, Span], *, offset: int) -> Path:
    path = cursor_path(directory).with_name("test@w1.cursor")
    file = CursorFile(path)
    file.save(Cursor(spans, {"file": SIBLINGS_FILE, "offset": offset, "bytes": 0}))
    file.close()
    return path
