"""The machine that a figure comes from: what it is, its cores, and what a sync costs there."""

from __future__ import annotations

import mmap
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parent.parent
SYNC_PROBES = 50
WARMED_BYTES_MAX = 8 << 30
WARMED_SHARE = 0.5
PACKAGES = (
    "aiohttp",
    "uvloop",
    "httptools",
    "orjson",
    "ua-parser",
    "ua-parser-rs",
    "fastapi",
    "pydantic",
    "uvicorn",
)


def describe(data_dir: Path | None = None) -> dict[str, str]:
    """Everything that a reader needs to judge a figure, and to get it again."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    if data_dir:
        disk = f"{_filesystem(data_dir)}, {_sync_ms(data_dir):.2f} ms a fdatasync of 4 KiB"
        facts["data directory"] = disk
    return facts


def warm_memory() -> str:
    """Touch half of the free memory once, and say what that took.

    A virtual machine gets many of its pages from its host only when it touches them, which can
    take longer than anything that a server does with an event. A file that is written to the page
    cache would pay for that at random.
    """
    free_kib = int(re.findall(r"MemFree:\s+(\d+)", Path("/proc/meminfo").read_text())[0])
    size = min(int(free_kib * 1024 * WARMED_SHARE), WARMED_BYTES_MAX) // mmap.PAGESIZE
    took_us = [_populate_us(size) for _time in range(2)]
    first, again = (took / size for took in took_us)
    size_mib = (size * mmap.PAGESIZE) >> 20
    return f"{size_mib} MiB touched before, {first:.2f} µs a page, and {again:.2f} the second time"


def _populate_us(pages: int) -> float:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    started_ns = time.perf_counter_ns()
    with mmap.mmap(-1, pages * mmap.PAGESIZE, flags=flags):
        return (time.perf_counter_ns() - started_ns) / 1_000


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Run the block on *cores*: processes started in it stay there, with all their threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def core_seconds(core: int) -> tuple[float, float]:
    """Read how long *core* has been busy, and how long it has been up, from the kernel."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            ticks = [int(field) for field in fields[:8]]
            idle = ticks[3] + ticks[4]
            hertz = os.sysconf("SC_CLK_TCK")
            return (sum(ticks) - idle) / hertz, sum(ticks) / hertz
    raise ValueError(f"no core {core} here")


def tree_cpu_s(root: int) -> float:
    """Return the processor time of a process and all that it started and that still run.

    That of children which ended and were waited for counts as well.
    """
    stats = _stats()
    hertz = os.sysconf("SC_CLK_TCK")
    return sum(sum(map(int, stats[pid][11:15])) for pid in _tree(root, stats)) / hertz


def tree_anonymous_bytes(root: int) -> int:
    """Return the memory that a process and all that it started share with no file."""
    return sum(anonymous_bytes(pid) for pid in tree(root))


def tree(root: int) -> list[int]:
    """Return the ids of a process and of all that it started and that still run."""
    return _tree(root, _stats())


def anonymous_bytes(pid: int) -> int:
    """Return the anonymous memory of one process; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _stats() -> dict[int, list[str]]:
    """Read what the kernel says of each process, from its state on."""
    stats = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                stats[int(path.name)] = (path / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
    return stats


def _tree(root: int, stats: dict[int, list[str]]) -> list[int]:
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        if pid in stats:
            found.append(pid)
        todo += [child for child, fields in stats.items() if int(fields[1]) == pid]
    return found


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit(tree: Path = REPOSITORY) -> str:
    """Name the commit that *tree* is at, and say so if it was changed since."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tree), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        name = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--", "segsrv", "bench")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (name or "none") + (" with changes" if changed else "")


def _filesystem(folder: Path) -> str:
    """Name the file system that *folder* is on; on tmpfs a sync costs nothing."""
    here, best, kind = str(folder.resolve()), "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, name, *_ = line.split()
        inside = here == mount or here.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, name
    return kind


def _sync_ms(folder: Path) -> float:
    """Measure the median append of 4 KiB with fdatasync in *folder*."""
    samples = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(SYNC_PROBES):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            samples.append(time.perf_counter() - started)
    return statistics.median(samples) * 1e3
