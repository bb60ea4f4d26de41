"""A short form of the kill rounds; `python -m tests.faults.kill_rounds` does 200 of them."""

import os

import pytest

from tests.faults import kill_rounds

ROUNDS = 24 if os.environ.get("CI") else 4


@pytest.mark.parametrize("flags", [(), ("--delivery=process", "--dedup-window-s=3600")], ids=str)
async def test_nothing_is_lost_or_doubled(tmp_path, flags):
    """Servers of 1 to 3 workers, their delivery and single workers are killed under load."""
    done = await kill_rounds.run(tmp_path, rounds=ROUNDS, seed=7, flags=flags)

    assert done["server"] == ROUNDS
    assert done["acknowledged"] > ROUNDS


async def test_functions_break_nothing(tmp_path):
    """With a function that never says the same twice, all that it made of an event is of a call."""
    done = await kill_rounds.run(tmp_path, rounds=ROUNDS, seed=8, is_transformed=True)

    assert done["server"] == ROUNDS
    assert done["acknowledged"] > ROUNDS
