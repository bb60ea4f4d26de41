"""Puts the test of the documentation's table last, and knows whether all others have passed.

One Chromium is shared by all tests that open pages.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import Chromium

HERE = Path(__file__).resolve().parent
TABLE_TEST = HERE / "test_table.py"

_incomplete: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Sorting is stable, so that only this one test moves.
    items.sort(key=lambda item: item.path == TABLE_TEST)


def pytest_deselected(items: list[pytest.Item]) -> None:
    _incomplete.extend(item.nodeid for item in items if HERE in item.path.parents)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not report.passed and "sdk/test_" in report.nodeid:
        _incomplete.append(report.nodeid)


@pytest.fixture
def missing(request: pytest.FixtureRequest) -> list[str]:
    """Return the tests of this folder that were left out, were skipped or failed."""
    files = {item.path for item in request.session.items}
    left_out = [path.name for path in sorted(HERE.glob("test_*.py")) if path not in files]
    selected = [argument for argument in request.config.args if "::" in argument]
    return [*left_out, *(f"all but {argument}" for argument in selected), *_incomplete]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("chromium") / "profile")
    with contextlib.closing(browser):
        yield browser


@pytest.fixture
def profile(browser: Chromium) -> Iterator[str]:
    with browser.profile() as profile:
        yield profile
