"""What a request costs from its body to its answer, without sockets and without a disk.

    python bench/take_alone.py --beside ../other-tree

That is what `Ingest.take` does with one event of a caller that is known, and a journal that takes
all at once: microseconds of the processor, the least of some rounds. Both trees take turns, each
time in a new process, and the difference is the median over the pairs. Each answer is checked.
"""

from __future__ import annotations

import argparse
import base64
import gc
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
import orjson
from multidict import CIMultiDict

from segsrv import Settings, create_app
from segsrv.app import INGEST
from segsrv.http.paths import ingest_paths
from segsrv.http.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from segsrv.http.answers import Answer

REQUESTS = 20_000
ROUNDS = 5
OK = 200
PATH = "/v1/track"
BODY = orjson.dumps({"type": "track", "event": "a", "userId": "u", "properties": {"a": 1}})
HEAD = {"Authorization": "Basic " + base64.b64encode(b"key:").decode()}


class Journal:
    """Says at once of everything that it is safe."""

    def check_room(self, size: int) -> None:
        """Say that there is room."""

    def submit(self, _lines: Any, _letters: Any, _run: Any, done: Callable[[None], None]) -> None:
        done(None)


def measure() -> float:
    """Return µs a request."""
    ingest = create_app(Settings(write_key=("key",)))[INGEST]
    ingest.commit = Journal()  # type: ignore[assignment]
    head = Request("POST", PATH, "", CIMultiDict(HEAD), "203.0.113.9")
    caller = ingest.caller(head, ingest_paths()[PATH])
    statuses: list[int] = []

    def give(answer: Answer) -> None:
        statuses.append(answer.status)

    def took_us() -> float:
        begin_s = time.process_time()
        for _ in range(REQUESTS):
            ingest.take(caller, BODY, give)
        return (time.process_time() - begin_s) / REQUESTS * 1e6

    gc.disable()
    least = min(took_us() for _ in range(ROUNDS))
    if statuses != [OK] * (REQUESTS * ROUNDS):
        raise SystemExit("not every event was taken")
    return least


def in_a_process(tree: Path) -> float:
    """Return µs a request of the segsrv in *tree*."""
    command = [sys.executable, __file__, "--once"]
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve())}
    done = subprocess.run(command, env=environment, capture_output=True, check=True, cwd=tree)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--beside", type=Path, help="another tree of segsrv to be measured in turns"
    )
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--once", action="store_true", help="measure what is imported, once")
    flags = parser.parse_args()
    if flags.once:
        print(measure())
        return
    for name, value in machine.describe().items():
        print(f"{name}: {value}")
    own = machine.REPOSITORY
    trees = [own] if flags.beside is None else [flags.beside, own]
    rounds = [[in_a_process(tree) for tree in trees] for _ in range(flags.pairs)]
    for tree, found in zip(trees, zip(*rounds, strict=True), strict=True):
        print(f"{tree}: {statistics.median(found):.2f} µs a request ({min(found):.2f} at least)")
    if flags.beside is not None:
        more = statistics.median(found[-1] - found[0] for found in rounds)
        print(f"this tree takes {more:+.2f} µs more")


if __name__ == "__main__":
    main()
