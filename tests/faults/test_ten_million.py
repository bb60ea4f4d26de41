"""A short form of the ten million; `python -m tests.faults.ten_million` does them all."""

import pytest

from tests.faults import ten_million


async def test_each_event_is_stored_once(tmp_path):
    """Batches of numbered events, and kills at random times: none is lost, none is doubled."""
    done = await ten_million.run(tmp_path, events=30_000, seed=3, kill_after_s=(0.05, 0.4))

    assert done["acknowledged"] >= 30_000
    assert done["server"] >= 1


@pytest.mark.parametrize(
    ("stored", "expected"),
    [([0, 1, 2], (0, 0)), ([0, 2], (0, 0)), ([0, 1], (1, 0)), ([0, 1, 2, 2], (0, 1))],
    ids=["all", "one not acknowledged", "lost", "doubled"],
)
def test_lost_and_doubled_events_are_told_apart(tmp_path, stored, expected):
    """What was acknowledged must be there, and nothing twice."""
    lines = [b'{"eventn_ctx_event_id":"n%d"}\n' % number for number in stored]
    (tmp_path / "part.ndjson").write_bytes(b"".join(lines))

    assert ten_million.compare(tmp_path, bytearray([1, 0, 1])) == expected
