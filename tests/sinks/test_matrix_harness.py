"""The harness of the fault matrix sees what it is there to see: loss and copies."""

import pytest

from tests.services.plain_target import PlainTarget
from tests.services.targets import running
from tests.sinks.matrix import FAULTS, run_cell


@pytest.fixture
def run(tmp_path):
    """Return a function that lets a fault happen to a sink that does *wrong*."""

    async def run_one(name, wrong="nothing"):
        target = PlainTarget(tmp_path / "plain")
        target.wrong = wrong
        with running(target) as proxy:
            return await run_cell(FAULTS[name], target, proxy, tmp_path / "cell", seed=1)

    return run_one


@pytest.mark.parametrize("fault", ["network_cut", "sink_killed", "answer_cut"])
async def test_a_right_sink_passes(run, fault):
    """A sink that stores each batch under its id passes."""
    outcome = await run(fault)

    assert (outcome.copies, outcome.refused) == (0, 0)


@pytest.mark.parametrize("fault", ["network_cut", "sink_killed"])
async def test_a_sink_that_loses_is_found(run, fault):
    """A sink that takes a cut connection for success fails."""
    with pytest.raises(AssertionError, match="acknowledged events are lost"):
        await run(fault, wrong="loses")


async def test_a_sink_that_doubles_is_found(run):
    """A sink that ignores the batch's id fails."""
    with pytest.raises(AssertionError, match="stored once too often"):
        await run("answer_cut", wrong="doubles")
