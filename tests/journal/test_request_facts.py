"""The facts of a request's events, as they travel beside their lines."""

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
