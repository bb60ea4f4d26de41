"""The facts of a request's events, as they travel beside their lines."""

import tracemalloc

import pytest

from segsrv.journal import facts
from segsrv.journal.facts import Run


@pytest.mark.parametrize(
    ("kinds", "types"),
    [
        ([], []),
        (["track"], "track"),
        (["page", "page"], "page"),
        (["page", "track"], ["page", "track"]),
    ],
)
def test_of_a_request(kinds, types):
    """A run says of each event its line's length and its id, and the type once where it can."""
    lines = [b"x" * (number + 1) for number in range(len(kinds))]
    ids = [f"id {number}" for number in range(len(kinds))]
    encoded = facts.encode_request("key", "flat", 5, kinds, lines, ids)
    run = Run("key", "flat", 5, types, [len(line) for line in lines], ids)
    assert facts.decode(facts.join([encoded])) == [run]
    assert encoded == facts.encode(run)
    assert facts.fit([run], len(lines), sum(map(len, lines)))


def test_memory_of_what_waits_for_a_commit():
    """A run takes about as much memory as it has bytes, which are what limits count."""
    count = 1_000
    tracemalloc.start()
    try:
        runs = [
            facts.encode_request("key", "flat", 5, ["track"], [b"x"], [f"{number}" * 9])
            for number in range(count)
        ]
        taken, _most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < sum(map(len, runs)) + 100 * count
