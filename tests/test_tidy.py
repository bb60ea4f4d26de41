"""House rules that no linter knows: the direction of imports, and how long things may grow."""

import ast
import collections
import re
from pathlib import Path

import pytest

from tests.server_process import REPOSITORY

PACKAGE = REPOSITORY / "segsrv"
MODULES = sorted(PACKAGE.rglob("*.py"))
MODULE_LINES_MAX = 405
FUNCTION_LINES_MAX = 60
# A call costs an event 0.1 µs, of 5 for everything, and it would be a dozen of them.
LONG_FUNCTIONS = {("events/loop.py", "store")}

# A room may import the rooms that stand before it, and itself.
ROOMS = [
    "errors",
    "files",
    "board",
    "addresses",
    "histogram",
    "settings",
    "rates",
    "events",
    "journal",
    "sinks",
    "transform",
    "testing",
    "delivery",
    "geoip",
    "write_keys",
    "key_watch",
    "http",
    "ops",
    "live",
    "logs",
    "tls",
    "app",
    "process",
    "commands",
    "cli",
    "__main__",
]
PURE = ("asyncio", "aiohttp", "uvloop", "socket", "threading", "pathlib", "os", "maxminddb")


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(module: Path) -> set[str]:
    """Return the full names of modules that *module* imports at its top level."""
    names = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestModules:
    def test_imports_point_one_way(self, module):
        """A module imports only what stands before it on an event's way."""
        room = room_of(module)
        if room == "__init__":
            return
        for name in imported(module):
            parts = name.split(".")
            if parts[0] == "segsrv" and len(parts) > 1 and parts[1] in ROOMS:
                assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{room} imports {name}"

    def test_events_are_pure(self, module):
        """What maps events knows neither the loop, nor the network, nor files."""
        if room_of(module) == "events":
            roots = {name.partition(".")[0] for name in imported(module)}
            assert not roots & set(PURE)

    def test_nothing_grows_too_long(self, module):
        """Modules and functions stay short enough to be read at once."""
        text = module.read_text()
        assert text.count("\n") <= MODULE_LINES_MAX
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if (module.relative_to(PACKAGE).as_posix(), node.name) in LONG_FUNCTIONS:
                    continue
                lines = node.end_lineno - node.lineno + 1
                assert lines <= FUNCTION_LINES_MAX, f"{node.name} has {lines} lines"

    def test_nothing_is_left_to_do(self, module):
        """No module is committed with a note to finish it later."""
        text = module.read_text()
        assert not any(mark in text for mark in ("TODO", "FIXME", "XXX"))


TESTS = [*REPOSITORY.glob("tests/test_*.py"), *REPOSITORY.glob("tests/*/test_*.py")]
PAGES = [*sorted((REPOSITORY / "docs").rglob("*.md")), *REPOSITORY.glob("*.md")]
NAMED = re.compile(r"`((?:bench|docs|segsrv|tests)/[\w./-]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_a_page_names_is_there(page):
    """Files that the documentation sends its reader to exist; NAME stands for several."""
    named = {path for path in NAMED.findall(page.read_text()) if "NAME" not in path}
    assert [path for path in sorted(named) if not (REPOSITORY / path).exists()] == []


def test_no_two_test_files_have_one_name():
    """Folders of tests are no packages for pytest, which takes one name for one module."""
    names = collections.Counter(path.name for path in TESTS)
    assert [name for name, count in names.items() if count > 1] == []
