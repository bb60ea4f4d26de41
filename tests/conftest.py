"""Fixtures that several folders share: a running server, with each front and mounted."""

import contextlib
import itertools
import os
from pathlib import Path

import pytest

from tests.site import WAYS, Site, started_site

SERVICES = Path(__file__).parent / "services"
pytest_plugins = [f"tests.services.{path.stem}" for path in sorted(SERVICES.glob("*_fixtures.py"))]
"""Fixtures of the servers that sinks deliver to: all modules of `tests/services` so named."""


def pytest_addoption(parser):
    # Options are known only to this file, the first that pytest reads.
    parser.addoption(
        "--write-sdk-table",
        action="store_true",
        help="write docs/sdks.md from what the tests of tests/sdk observe",
    )
    parser.addoption(
        "--write-fault-matrix",
        action="store_true",
        help="write docs/faults.md from what tests/sinks/test_fault_matrix.py observes",
    )
    parser.addoption(
        "--screenshots",
        type=Path,
        help="folder for the pictures that tests/live/test_live_browser.py takes of the page",
    )
    parser.addoption(
        "--key-load-phases",
        type=int,
        default=2,
        help="how often tests/process/test_keys_under_load.py changes keys, each for 6.5 s",
    )
    parser.addoption(
        "--key-load-events-per-s",
        type=int,
        default=1_000,
        help="what tests/process/test_keys_under_load.py sends meanwhile",
    )
    parser.addoption(
        "--without-way",
        choices=WAYS,
        help="leave out the tests of one way to serve where they are run for each",
    )


def pytest_collection_modifyitems(config, items):
    if (way := config.getoption("--without-way")) is None:
        return

    def is_left_out(item) -> bool:
        params = getattr(item, "callspec", None)
        return params is not None and way in map(params.params.get, ("site", "new_site"))

    config.hook.pytest_deselected(items=[item for item in items if is_left_out(item)])
    items[:] = [item for item in items if not is_left_out(item)]


@pytest.fixture(params=["one_call", "two_calls"])
def sync_way(request, monkeypatch) -> str:
    """Let the journal write and sync in one call, or as where the kernel doesn't have that."""
    if request.param == "two_calls":
        monkeypatch.delattr(os, "RWF_DSYNC")
    return request.param


@pytest.fixture(scope="session", params=WAYS)
def site(request, tmp_path_factory) -> Site:
    """One running server for the whole session, each test with events of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    with started_site(folder / "data", way=request.param) as running:
        yield running


@pytest.fixture(params=WAYS)
def new_site(request, tmp_path):
    """Return a function that starts a server with flags of the test's own, in every way."""
    with contextlib.ExitStack() as stack:
        yield _starter(stack, tmp_path, way=request.param)


@pytest.fixture
def start_server(request, tmp_path):
    """Return a function that starts `segsrv serve`, for what only that command does.

    With `BOTH_FRONTS` a test is run for each front.
    """
    with contextlib.ExitStack() as stack:
        yield _starter(stack, tmp_path, way=getattr(request, "param", "raw"))


def _starter(stack, tmp_path, *, way):
    numbers = itertools.count()

    def start(*flags, **options) -> Site:
        data_dir = tmp_path / f"data-{next(numbers)}"
        return stack.enter_context(started_site(data_dir, *flags, way=way, **options))

    return start
