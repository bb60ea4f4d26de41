"""Each sink with each fault: nothing that was acknowledged is lost, and what is exactly once is.

`--write-fault-matrix` writes how the cells ended, and with them the table of docs/faults.md.
"""

import contextlib
import zlib

import pytest

from tests.needs import skip_or_fail
from tests.services.targets import running, target_class
from tests.sinks import matrix_page
from tests.sinks.matrix import FAULTS, cells, run_cell, small_disk


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return a function that runs a kind of sink; it goes on running until another one is asked."""
    with contextlib.ExitStack() as stack:
        now = ("", None, None)

        def get(kind):
            nonlocal now
            if now[0] != kind:
                stack.close()
                target = target_of(kind, tmp_path_factory.mktemp(kind))
                now = (kind, target, stack.enter_context(running(target)))
            return now[1:]

        yield get


@pytest.fixture(scope="module")
def outcomes():
    """Collect how cells end."""
    return {}


def target_of(kind, folder, **options):
    found = target_class(kind)
    if (missing := found.installed()) is not None:
        skip_or_fail(missing)
    return found(folder, **options)


@pytest.mark.parametrize(
    ("kind", "fault"), [cell for cell in cells() if cell[1] != "sink_disk_full"]
)
async def test_a_fault(kind, fault, shared, outcomes, tmp_path):
    """Every acknowledged event arrives, in an exactly-once sink once, and all else goes on."""
    target, proxy = shared(kind)
    seed = zlib.crc32(f"{kind} {fault}".encode())

    outcome = await run_cell(FAULTS[fault], target, proxy, tmp_path / "cell", seed=seed)

    outcomes[kind, fault] = outcome


@pytest.mark.parametrize("kind", [kind for kind, fault in cells() if fault == "sink_disk_full"])
async def test_a_full_disk(kind, outcomes, tmp_path):
    """A sink with a full disk stops nothing else, and gets everything once it has room."""
    fault, disk = FAULTS["sink_disk_full"], tmp_path / "disk"
    with small_disk(disk, target_class(kind).disk_bytes):
        target = target_of(kind, tmp_path / "service", data_dir=disk / "data")
        with running(target) as proxy:
            outcome = await run_cell(fault, target, proxy, tmp_path / "cell", seed=1, disk=disk)

    outcomes[kind, fault.name] = outcome


def test_the_documented_matrix(request, outcomes):
    """The documentation has what runs have written down, for exactly the cells that exist."""
    if request.config.getoption("--write-fault-matrix"):
        matrix_page.add(outcomes)
    figures = matrix_page.load()
    known = [(kind, fault) for kind, found in figures.items() for fault in found]

    assert sorted(known) == sorted(cells())
    _before, table, _after = matrix_page.documented()
    assert table == matrix_page.table(figures)
    for kind, fault in known:
        found = figures[kind][fault]
        assert not (target_class(kind).is_exactly_once and found["copies"])
        assert found["refused"] == (fault == "refused_event")
