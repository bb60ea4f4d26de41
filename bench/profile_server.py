"""Where the server's time goes: `segsrv serve` under cProfile and full load, grouped by package.

    python bench/profile_server.py --shape batch
    python bench/profile_server.py --server-arg=--front=aiohttp

Profiled is the main thread, which is the event loop's; the journal's threads are not in it. What an
idle server takes to start and stop is measured first and left out.
cProfile makes every Python call dearer and leaves C code as it is, so read the shares as a map of
where to look, and measure a change with `saturate.py` or `micro_events.py`.
"""

from __future__ import annotations

import argparse
import os
import pstats
import tempfile
from collections import defaultdict
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import load
import machine
import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITE_KEY = "bench-write-key"
NATIVE_PACKAGES = (
    "orjson",
    "aiohttp",
    "httptools",
    "uvloop",
    "multidict",
    "yarl",
    "ua_parser_rs",
    "maxminddb",
)


class Place(NamedTuple):
    """A function as pstats names it; built-in ones have the file `~`."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        if self.file == "~":
            return self.name
        return f"{'/'.join(Path(self.file).parts[-2:])}:{self.line} {self.name}"


class Cost(NamedTuple):
    """How often a function was called, for how long in itself, and for whom."""

    calls: int
    own_s: float
    callers: dict[Place, float]


def package_of(place: Place) -> str | None:
    """Name the package that a function belongs to, or None for Python's own built-ins."""
    if place.file == "~":
        return next((name for name in NATIVE_PACKAGES if name in place.name), None)
    parts = Path(place.file).parts
    if "segsrv" in parts:
        inner = parts[parts.index("segsrv") + 1 :]
        return f"segsrv.{Path(inner[0]).stem}"
    if "site-packages" in parts:
        return Path(parts[parts.index("site-packages") + 1]).stem
    if "asyncio" in parts:
        # Uvloop is invisible to the profiler, so this frame has the loop, the sockets and the wait.
        is_loop = parts[-1] == "runners.py" and place.name == "run"
        return "uvloop and sockets" if is_loop else "asyncio"
    return "standard library"


def read_costs(file: Path) -> dict[Place, Cost]:
    # The typed part of pstats leaves out callers, which are needed to place built-in functions.
    raw = vars(pstats.Stats(str(file)))["stats"]
    return {
        Place(*place): Cost(
            calls, own_s, {Place(*caller): times[2] for caller, times in callers.items()}
        )
        for place, (_, calls, own_s, _, callers) in raw.items()
    }


def shares(costs: dict[Place, Cost]) -> dict[str, float]:
    """Add up own time by package; what Python's built-ins take counts for who called them."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for place, cost in costs.items():
        for package, own_s in _split(place, cost):
            seconds[package] += own_s
    return dict(sorted(seconds.items(), key=itemgetter(1), reverse=True))


def without(costs: dict[Place, Cost], idle: dict[Place, Cost]) -> dict[Place, Cost]:
    """Take away what a server spends that starts, does nothing and stops."""
    return {
        place: Cost(
            cost.calls - (idle[place].calls if place in idle else 0),
            max(0.0, cost.own_s - (idle[place].own_s if place in idle else 0.0)),
            {
                caller: max(0.0, own_s - (idle[place].callers.get(caller, 0.0)))
                if place in idle
                else own_s
                for caller, own_s in cost.callers.items()
            },
        )
        for place, cost in costs.items()
    }


def _split(place: Place, cost: Cost) -> Iterator[tuple[str, float]]:
    package = package_of(place)
    if package or not cost.callers:
        yield package or "other", cost.own_s
        return
    for caller, own_s in cost.callers.items():
        yield package_of(caller) or "other", own_s


def profile(options: argparse.Namespace, folder: Path, seconds: float) -> dict[Place, Cost]:
    """Run the server under cProfile, with load for *seconds* or, if that is 0, without any."""
    folder.mkdir()
    profile_file = folder / "profile"
    arguments = ["-m", "cProfile", "-o", str(profile_file), "-m", "segsrv", "serve"]
    arguments += ["--host", "127.0.0.1", "--port", "0", "--data-dir", str(folder / "data")]
    arguments += ["--write-key", WRITE_KEY, "--durability", options.durability]
    arguments += options.server_arg
    log = folder / "server.log"
    with servers.running(arguments, core=options.server_core, log=log) as server:
        if seconds:
            send_load(options, server.port, folder / "requests", seconds)
        server.stop()
    if server.exit_code != 0 or not profile_file.exists():
        raise SystemExit(f"the server left no profile:\n{log.read_text()[-2000:]}")
    return read_costs(profile_file)


def send_load(options: argparse.Namespace, port: int, folder: Path, seconds: float) -> None:
    shape = load.make_shapes(
        options.batch_events,
        single_endpoint=options.single_endpoint,
        batch_endpoint=options.batch_endpoint,
    )[options.shape]
    requests = load.prepare(shape, path=options.path, write_key=WRITE_KEY, event_bytes=0, seed=1)
    load.write_requests(requests, folder, port)
    servers.check_answer(port, requests[0])
    sent = load.send(
        load.pick_generator(options.generator),
        port=port,
        folder=folder,
        connections=options.connections,
        seconds=seconds,
        core=options.generator_core,
    )
    if sent.failed or sent.broken:
        raise SystemExit(f"{sent.failed} requests failed, {sent.broken} were not answered")
    print(f"* {sent.acknowledged:,} requests in {sent.seconds:.1f} s while profiled")


def report(costs: dict[Place, Cost], top: int) -> None:
    total_s = sum(cost.own_s for cost in costs.values())
    print("| package | share |\n|---|---|")
    for package, own_s in shares(costs).items():
        if own_s / total_s >= 0.005:
            print(f"| {package} | {own_s / total_s:.1%} |")
    print("\n| own time | calls | function |\n|---|---|---|")
    dearest = sorted(costs.items(), key=lambda item: item[1].own_s, reverse=True)
    for place, cost in dearest[:top]:
        print(f"| {cost.own_s / total_s:.1%} | {cost.calls:,} | `{place}` |")


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--shape", choices=("single", "batch"), default="single")
    add("--durability", choices=("fsync", "write", "memory"), default="fsync")
    add("--seconds", type=float, default=10.0)
    add("--connections", type=int, default=64)
    add("--batch-events", type=int, default=100)
    add("--path", default="/api/v1/segment")
    add("--single-endpoint", default="", help="after --path, such as /v1/t (default: none)")
    add("--batch-endpoint", default="", help="after --path, such as /v1/batch (default: none)")
    add("--generator", choices=("auto", "wrk", "sender"), default="auto")
    add("--server-core", type=int, default=cores[0])
    add("--generator-core", type=int, default=cores[-1])
    add(
        "--server-arg", action="append", default=[], help="for segsrv, as --server-arg=--flag=value"
    )
    add("--top", type=int, default=30, help="functions listed (default: 30)")
    options = parser.parse_args()
    servers.stop_children_on_sigterm()
    for name, text in machine.describe().items():
        print(f"* {name}: {text}")
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        idle = profile(options, Path(folder, "idle"), 0.0)
        costs = without(profile(options, Path(folder, "loaded"), options.seconds), idle)
    print()
    report(costs, options.top)


if __name__ == "__main__":
    main()
