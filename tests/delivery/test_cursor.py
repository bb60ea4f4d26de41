"""A sink's cursor on disk: what is read back, and what the journals may let go of."""

import pytest

from segsrv.delivery import cursor as cursors
from segsrv.delivery.cursor import Cursor, CursorFile, Mark, Span

ID, OTHER = "a" * 32, "b" * 32
CURSOR = Cursor({"w0": Span(ID, Mark(10), Mark(20, 3))}, {"file": "x"})


def at(position: int) -> Cursor:
    return Cursor({"w0": Span(ID, Mark(position), Mark(position))})


def test_what_was_saved_is_read_back(tmp_path):
    """Spans with their marks and the placement come back as they were."""
    file = CursorFile(tmp_path / "x.cursor")
    assert file.load() is None
    file.save(CURSOR)
    file.close()
    assert CursorFile(tmp_path / "x.cursor").load() == CURSOR
    assert cursors.read(tmp_path / "x.cursor") == (CURSOR, None, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b"1",
        b'{"version":2,"journals":{},"placement":{}}',
        b'{"version":1,"journals":[],"placement":{}}',
        b'{"version":1,"journals":{},"placement":null}',
        b'{"version":1,"journals":{"w0":["x","1",0,2,0]},"placement":{}}',
        b'{"version":1,"journals":{"w0":["x",2,0,1,0]},"placement":{}}',
        b'{"version":1,"journals":{"w0":["x",-1,0,1,0]},"placement":{}}',
        b'{"version":1,"journals":{"w0":[1,1,0,1,0]},"placement":{}}',
    ],
)
def test_anything_else_is_no_cursor(data):
    """What has the wrong version, types or order is refused as a whole."""
    with pytest.raises(ValueError, match="not a"):
        Cursor.decode(data)


def test_only_what_lies_below_both_slots_may_go(tmp_path):
    """A fall back to the older slot must find what it needs."""
    file = CursorFile(tmp_path / "x.cursor")
    file.load()
    assert file.floor("w0", ID) == 0
    for position, floor in ((10, 10), (20, 10), (30, 20), (30, 30)):
        file.save(at(position))
        assert file.floor("w0", ID) == floor
    assert file.is_settled
    assert file.floor("w0", OTHER) == 0
    assert file.floor("w1", ID) == 0

    again = CursorFile(tmp_path / "x.cursor")
    again.load()
    assert again.floor("w0", ID) == 30
