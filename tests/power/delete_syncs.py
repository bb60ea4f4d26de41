"""Deletes each sync, rename and sync of a folder from the source in turn, and runs the tests.

    python -m tests.power.delete_syncs

What survives, no test would miss: the call is redundant, or a test is. The exit code is 1 then.
A run that takes too long has noticed nothing either: it may be the machine that is slow.
Each mutant is a copy of the package, made and tested in a temporary folder.
"""

import argparse
import ast
import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from tests.server_process import REPOSITORY

OWN = frozenset("sync_file sync_dir publish replace_file".split())
AMBIGUOUS = frozenset("replace rename move link sync".split())
CALLS = OWN | AMBIGUOUS | frozenset("fsync fdatasync syncfs renames".split())
FLAGS = frozenset("RWF_DSYNC RWF_SYNC O_DSYNC O_SYNC".split())
KEYWORDS = frozenset({"is_synced"})
TESTS = (
    "tests/power/test_promises.py",
    "tests/power/test_compressed_files.py",
    "tests/journal/test_slots.py",
    "tests/delivery/test_cursor.py",
    "tests/power/test_losses.py",
    "tests/power/test_taking_letters_out.py",
    "tests/power/test_deleting_parts.py",
    "tests/power/test_spool_losses.py",
)
COPIED = ("segsrv", "tests", "pyproject.toml")
TIMEOUT_S = 120
"""Of one run of the tests, at least; it is more where they take long with nothing deleted."""
SLOWER_MAX = 5
"""How many times as long they may take with something deleted."""

Result = Literal["noticed", "SURVIVED", "TIMED OUT"]


@dataclass(slots=True, frozen=True)
class Site:
    """A piece of source from *start* to *end* and what takes its place."""

    module: Path
    line: int
    start: int
    end: int
    instead: str
    text: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.text} -> {self.instead}"


def sites(module: Path, text: str) -> Iterator[Site]:
    """Yield all that can be deleted from *text*, the source of *module*."""
    data = text.encode()
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def site(node: ast.expr, instead: str) -> Site:
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        shown = " ".join(data[start:end].decode().split())
        return Site(module, node.lineno, start, end, instead, shown)

    tree = ast.parse(text)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    awaited = {id(node.value): node for node in ast.walk(tree) if isinstance(node, ast.Await)}
    for node in ast.walk(tree):
        match node:
            case ast.Call() if _is_meant(node):
                yield site(awaited.get(id(node), node), "None")
            case ast.Name() | ast.Attribute() if (
                _name(node) in CALLS - AMBIGUOUS - {"publish"}
                and id(node) not in called
                and isinstance(node.ctx, ast.Load)
            ):
                # Handed on, to be called in a thread say.
                yield site(node, "(lambda *_arguments, **_options: None)")
            case ast.Attribute() if node.attr in FLAGS:
                yield site(node, "0")
            case ast.keyword(arg=str(name), value=value) if name in KEYWORDS and not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                if not (isinstance(value, ast.Name) and value.id in KEYWORDS):
                    yield site(value, "False")


def _is_meant(call: ast.Call) -> bool:
    name, of = _name(call.func), getattr(call.func, "value", None)
    if name == "replace_file":
        # Without a sync it promises nothing.
        return not any(
            keyword.arg in KEYWORDS and getattr(keyword.value, "value", True) is False
            for keyword in call.keywords
        )
    if name in AMBIGUOUS:
        is_of_os = isinstance(of, ast.Name) and of.id in {"os", "shutil"}
        # `text.replace(old, new)` and `dataclasses.replace(value, name=...)` are something else.
        is_of_a_path = name in {"replace", "rename"} and len(call.args) == 1 and not call.keywords
        return is_of_os or (of is not None and is_of_a_path)
    return name in CALLS and (name not in OWN or of is None)


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


class Copies:
    """Copies of the repository, one for each mutant that is tested at the same time."""

    def __init__(self, folder: Path, count: int) -> None:
        self.timeout_s: float = TIMEOUT_S
        self.printed = ""
        self._free: SimpleQueue[Path] = SimpleQueue()
        for number in range(count):
            copy = folder / str(number)
            copy.mkdir()
            for name in COPIED:
                _copy(REPOSITORY / name, copy / name)
            # A time stamp would not tell a mutant from what stood there a moment ago.
            mode = py_compile.PycInvalidationMode.CHECKED_HASH
            compileall.compile_dir(copy / "segsrv", quiet=2, invalidation_mode=mode)
            self._free.put(copy)

    def test(self, site: Site | None, tests: list[str]) -> tuple[Result, float]:
        """Return how *tests* end without *site*, and how long they took in seconds."""
        copy = self._free.get()
        started_s = time.monotonic()
        try:
            if site is None:
                return self._run(copy, tests), time.monotonic() - started_s
            path = copy / site.module
            whole = path.read_bytes()
            try:
                path.write_bytes(whole[: site.start] + site.instead.encode() + whole[site.end :])
                return self._run(copy, tests), time.monotonic() - started_s
            finally:
                path.write_bytes(whole)
        finally:
            self._free.put(copy)

    def _run(self, copy: Path, tests: list[str]) -> Result:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {key: value for key, value in os.environ.items() if key != "CI"}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
        environment |= {"TMPDIR": str(copy)}
        try:
            done = subprocess.run(
                command,
                cwd=copy,
                env=environment,
                capture_output=True,
                text=True,
                timeout=self.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "TIMED OUT"
        if done.returncode not in (0, 1, 2):
            raise RuntimeError(f"the tests did not run: {done.stdout}{done.stderr}")
        self.printed = done.stdout + done.stderr
        return "noticed" if done.returncode else "SURVIVED"


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignore = shutil.ignore_patterns("node_modules", "__pycache__", "build", "sdk", "target")
        shutil.copytree(source, target, ignore=ignore)
    else:
        shutil.copy(source, target)


def find(parts: list[str]) -> list[Site]:
    """Return what can be deleted from the modules whose path begins with one of *parts*."""
    found = []
    for path in sorted((REPOSITORY / "segsrv").rglob("*.py")):
        module = path.relative_to(REPOSITORY)
        if not parts or any(str(module).startswith(part) for part in parts):
            found += list(sites(module, path.read_text()))
    return found


def survivors(
    found: list[Site],
    tests: list[str],
    *,
    jobs: int,
    checks_whole: bool = True,
    say: Callable[[str], object] = lambda _line: None,
) -> list[Site]:
    """Return those of *found* that can be deleted and no test of *tests* fails.

    Raises:
        RuntimeError: They don't pass as it is, which is only looked at if *checks_whole*.

    """
    with tempfile.TemporaryDirectory(prefix="syncs-") as folder:
        copies = Copies(Path(folder), jobs)
        if checks_whole:
            result, took_s = copies.test(None, tests)
            if result != "SURVIVED":
                raise RuntimeError(f"with nothing deleted: {result}\n{copies.printed}")
            copies.timeout_s = max(TIMEOUT_S, SLOWER_MAX * took_s)
            say(f"nothing deleted: passed in {took_s:.0f} s")
        left = []

        def test(site: Site) -> None:
            result, took_s = copies.test(site, tests)
            say(f"{result} in {took_s:.0f} s  {site}")
            if result != "noticed":
                left.append(site)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(test, found))
    return left


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", help="beginnings of paths, segsrv/journal say")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tests", nargs="+", default=list(TESTS))
    parser.add_argument("--list", action="store_true", help="only list what would be deleted")
    options = parser.parse_args()
    found = find(options.parts)
    if options.list:
        sys.stdout.writelines(f"{site}\n" for site in found)
        return 0
    left = survivors(
        found,
        options.tests,
        jobs=options.jobs,
        say=lambda line: print(line, flush=True),  # noqa: T201
    )
    sys.stdout.write(f"{len(found)} deletions, {len(left)} not noticed\n")
    sys.stdout.writelines(f"  {site}\n" for site in left)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
