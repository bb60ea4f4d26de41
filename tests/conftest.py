"""Fixtures that several folders share: a running server, standalone and mounted."""

import contextlib
import itertools
import os
from pathlib import Path

import pytest

from tests.site import Site, started_site

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


@pytest.fixture(params=["one_call", "two_calls"])
def sync_way(request, monkeypatch) -> str:
    """Let the journal write and sync in one call, or as where the kernel doesn't have that."""
    if request.param == "two_calls":
        monkeypatch.delattr(os, "RWF_DSYNC")
    return request.param


@pytest.fixture(scope="session", params=["server", "mounted"])
def site(request, tmp_path_factory) -> Site:
    """One running server for the whole session, each test with events of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    with started_site(folder / "data", is_mounted=request.param == "mounted") as running:
        yield running


@pytest.fixture(params=["server", "mounted"])
def new_site(request, tmp_path):
    """Return a function that starts a server with flags of the test's own, in both ways."""
    with contextlib.ExitStack() as stack:
        yield _starter(stack, tmp_path, is_mounted=request.param == "mounted")


@pytest.fixture
def start_server(tmp_path):
    """Return a function that starts `segsrv serve`, for what only that command does."""
    with contextlib.ExitStack() as stack:
        yield _starter(stack, tmp_path, is_mounted=False)


def _starter(stack, tmp_path, *, is_mounted):
    numbers = itertools.count()

    def start(*flags, **options) -> Site:
        data_dir = tmp_path / f"data-{next(numbers)}"
        return stack.enter_context(started_site(data_dir, *flags, is_mounted=is_mounted, **options))

    return start
