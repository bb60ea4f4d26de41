"""The harness of the fault matrix sees what it is there to see: loss and copies."""

import contextlib

import pytest

from tests.services.plain_target import PlainTarget
from tests.services.targets import running
from tests.sinks.matrix import FAULTS, run_cell, small_disk


@pytest.fixture
def run(tmp_path):
    """Return a function that lets a fault happen to a sink that does *wrong*."""

    async def run_one(name, wrong="nothing"):
        fault = FAULTS[name]
        with contextlib.ExitStack() as stack:
            disk = None
            if fault.is_on_sinks_disk:
                disk = tmp_path / "disk"
                stack.enter_context(small_disk(disk, PlainTarget.disk_bytes))
            target = PlainTarget(tmp_path / "plain", data_dir=disk)
            target.wrong = wrong
            proxy = stack.enter_context(running(target))
            return await run_cell(fault, target, proxy, tmp_path / "cell", seed=1, disk=disk)

    return run_one


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_right_sink_passes(run, fault):
    """A sink that stores each batch under its id passes all faults of the matrix."""
    outcome = await run(fault)

    assert outcome.copies == 0
    assert outcome.refused == (fault == "refused_event")


@pytest.mark.parametrize("fault", ["network_cut", "sink_killed"])
async def test_a_sink_that_loses_is_found(run, fault):
    """A sink that takes a cut connection for success fails."""
    with pytest.raises(AssertionError, match="acknowledged events are lost"):
        await run(fault, wrong="loses")


@pytest.mark.parametrize("fault", ["answer_cut", "segsrv_killed"])
async def test_a_sink_that_doubles_is_found(run, fault):
    """A sink that ignores the batch's id fails."""
    with pytest.raises(AssertionError, match="stored once too often"):
        await run(fault, wrong="doubles")
