"""What transformations made of a batch, on disk until it is delivered."""

import pytest

from segsrv.delivery.spool import Spool
from segsrv.journal.facts import Facts
from segsrv.sinks.base import Batch


def batch_of(batch_id, *numbers):
    lines = [b'{"n":%d}\n' % number for number in numbers]
    facts = [Facts("web", "flat", 1, "track", len(line), f"id-{line[5]}") for line in lines]
    return Batch(batch_id, lines, len(lines), lambda: facts)


def same(found, batch):
    return (found.id, found.content, found.events, found.facts) == (
        batch.id,
        batch.content,
        batch.events,
        batch.facts,
    )


def test_a_batch_comes_back(tmp_path):
    """Lines and facts are those that were saved, also for one who has not saved them."""
    batch = batch_of("a-t", 1, 2)
    Spool(tmp_path / "s", "x").save(batch, ())
    assert same(Spool(tmp_path / "s", "y").load("a-t"), batch)
    assert Spool(tmp_path / "s", "x").load("b-t") is None
    assert Spool(tmp_path / "none", "x").load("a-t") is None


def test_what_is_needed_stays(tmp_path):
    """Batches that a cursor names are not written over, others are."""
    spool = Spool(tmp_path, "x")
    spool.save(batch_of("0", 0), ())
    spool.save(batch_of("1", 1), {"0"})
    for number in range(2, 9):
        needed = {str(number - 2), str(number - 1)}
        # After a restart as well as without one.
        spool = Spool(tmp_path, "x") if number % 2 else spool
        spool.save(batch_of(str(number), number), needed)
        assert all(spool.load(batch_id) is not None for batch_id in needed)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_one_is_made_again_in_its_place(tmp_path):
    """With two batches needed, one of which can't be read, there is room for its second making."""
    Spool(tmp_path, "x").save(batch_of("a", 1), ())
    Spool(tmp_path, "x").save(batch_of("b", 2), {"a"})
    for _time in range(3):
        for path in tmp_path.iterdir():
            data = path.read_bytes()
            path.write_bytes(data[:-1] if b'"b"' in data else data)
        assert Spool(tmp_path, "x").load("b") is None
        Spool(tmp_path, "x").save(batch_of("b", 3), {"a", "b"})
        assert same(Spool(tmp_path, "x").load("b"), batch_of("b", 3))
    assert same(Spool(tmp_path, "x").load("a"), batch_of("a", 1))


def test_a_longer_one_leaves_nothing(tmp_path):
    """A batch that is written over a longer one is read without the rest of that."""
    for count in (100, 2, 50):
        batch = batch_of(f"of-{count}", *range(count))
        spool = Spool(tmp_path, "x")
        for _file in range(3):
            spool.save(batch, ())
        assert same(spool.load(batch.id), batch)


@pytest.mark.parametrize("at", ["head", "facts", "lines", "end"])
def test_damage_is_noticed(tmp_path, at, caplog):
    """A batch of which a byte is another one, or lacks, is none."""
    spool = Spool(tmp_path, "x")
    spool.save(batch_of("a", 1, 2), ())
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if at == "end":
        del data[-1]
    else:
        data[{"head": 3, "facts": data.index(b"web"), "lines": len(data) - 3}[at]] ^= 1
    path.write_bytes(data)
    assert Spool(tmp_path, "x").load("a") is None
    assert ("damaged" in caplog.text) == (at != "head")
