"""The parts at random over a disk that loses power: none lost, none doubled, none torn."""

import os

import pytest

from tests.power.losses import LOSSES_A_SEED, lose

LOSSES = 500 if os.environ.get("CI") == "true" else 100


@pytest.mark.parametrize("seed", range(LOSSES // LOSSES_A_SEED))
def test_every_promise_is_kept(tmp_path, seed):
    """What was acknowledged is delivered once, and what was refused stays away."""
    assert lose(seed, tmp_path) > 0
