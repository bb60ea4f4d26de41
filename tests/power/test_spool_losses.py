"""What transformations made of a batch is there after a power loss, once it was said to be."""

import pytest

from segsrv.delivery.spool import Spool
from segsrv.journal.facts import Facts
from segsrv.sinks.base import Batch
from tests.power.test_promises import Losses

PAD = 5_000
"""A batch takes more than a block of the disk."""


@pytest.fixture
def losses(tmp_path):
    return Losses(tmp_path)


def batch_of(number: int) -> Batch:
    line = b'{"n":%d,"pad":"%s"}\n' % (number, b"x" * PAD)
    facts = [Facts("web", "flat", 1, "track", len(line), f"id-{number}")]
    return Batch(f"batch-{number}-t", [line], 1, lambda: facts)


def save(root, number: int) -> None:
    """Save a batch as delivery does, which needs the two before it."""
    Spool(root / "state" / "spool", "x").save(
        batch_of(number), {f"batch-{each}-t" for each in (number - 1, number - 2)}
    )


def holds(state, number: int) -> bool:
    found = Spool(state / "state" / "spool", "y").load(f"batch-{number}-t")
    if found is None:
        return False
    expected = batch_of(number)
    assert (found.content, found.facts) == (expected.content, expected.facts)
    return True


@pytest.mark.parametrize("before", [0, 1, 2, 3, 4])
def test_a_batch_that_was_kept(losses, before):
    """It is there whatever is lost, and so are those that are still needed, at each moment."""

    def prepare(root) -> None:
        for number in range(before):
            save(root, number)

    for _disk in losses.killed_at_each_call(prepare, lambda root: save(root, before)):
        for state in losses.states():
            assert all(holds(state, number) for number in range(max(before - 2, 0), before))
            holds(state, before)
    for state in losses.states():
        assert all(holds(state, number) for number in range(max(before - 2, 0), before + 1))


def test_a_try_after_a_kill(losses):
    """Who was killed may have left a file whose name is not safe; the next one makes it so."""
    for disk in losses.killed_at_each_call(lambda _root: None, lambda root: save(root, 0)):
        save(disk.root, 0)
        assert all(holds(state, 0) for state in losses.states())
