"""What does a live page that somebody watches cost the server?

    python bench/watched.py

5,000 single events a second arrive at a server with a listener for operators. Pairs of turns, with
a client of the page's stream and without, take place one after the other, the order changing. What
counts is the CPU that all of the server's processes take, and the median over all pairs. The client
has to see events in each of its turns, and no request may fail.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import load
import machine
import servers

KEY = "bench-key-0123456789abcdef"
EXTRA_MAX = 0.05
SETTLE_S = 1.0
PAGE = re.compile(rb"live page +http://([^/\s]+)/live")
CLIENT = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1])
connection.request("GET", "/live/events", headers={"Authorization": "Bearer " + sys.argv[2]})
answer = connection.getresponse()
assert answer.status == 200, answer.status
while piece := answer.read1(65536):
    sys.stdout.buffer.write(piece)
    sys.stdout.flush()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--rate", type=float, default=5_000.0, help="events a second")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    servers.stop_children_on_sigterm()
    shape = load.make_shapes(100, single_endpoint="/v1/t", batch_endpoint="/v1/batch")["single"]
    requests = load.prepare(shape, path="/api/v1/segment", write_key=KEY, event_bytes=0, seed=1)
    cores = sorted(os.sched_getaffinity(0))
    first, last = cores[0], cores[-1]
    flags = ["--ops-listen=127.0.0.1:0", f"--workers={options.workers}", "--write-key", KEY]
    with tempfile.TemporaryDirectory(prefix="watched-") as name:
        folder = Path(name)
        command = ["-m", "segsrv", "serve", "--host=127.0.0.1", "--port=0", *flags]
        command += ["--data-dir", str(folder / "data")]
        with servers.running(command, core=first, log=folder / "log") as server:
            load.write_requests(requests, folder / "requests", server.port)
            seconds = options.pairs * 2 * (options.seconds + SETTLE_S) + 2 * SETTLE_S
            with sending(server.port, folder / "requests", options.rate, seconds, last) as loader:
                shares = list(pairs(options, server.process.pid, folder, last))
            output, _ = loader.communicate(timeout=60)
    result = load.result_line(output, ["open_loop.py"])
    print(f"\nmedian of {options.pairs} pairs: {statistics.median(shares):+.1%} CPU")
    problems = []
    if result["failed"] or result["broken"]:
        problems.append(f"{result['failed']} not answered with 200, {result['broken']} not at all")
    if statistics.median(shares) > EXTRA_MAX:
        problems.append(f"more than {EXTRA_MAX:.0%}")
    for problem in problems:
        print("FAULT", problem)
    return 1 if problems else 0


def pairs(options: argparse.Namespace, pid: int, folder: Path, core: int) -> Iterator[float]:
    """Yield what a watched turn takes more than one that is not, pair by pair."""
    found = PAGE.search((folder / "log").read_bytes())
    assert found is not None, "the server says where its page is"
    token = (folder / "data" / "state" / "ops-token").read_text().strip()
    time.sleep(SETTLE_S)
    for number in range(options.pairs):
        took = {}
        for is_watched in (number % 2 == 0, number % 2 == 1):
            with watching(found[1].decode(), token, folder, core) if is_watched else nobody():
                time.sleep(SETTLE_S)
                before_s = machine.tree_cpu_s(pid)
                time.sleep(options.seconds)
                took[is_watched] = machine.tree_cpu_s(pid) - before_s
        share = took[True] / took[False] - 1
        print(f"pair {number + 1}: {took[False]:.2f} s, watched {took[True]:.2f} s, {share:+.1%}")
        yield share


@contextlib.contextmanager
def watching(address: str, token: str, folder: Path, core: int) -> Iterator[None]:
    """Read the page's stream for the length of the block, and check that it had events."""
    path = folder / "stream"
    with path.open("wb") as stream, machine.pinned(core):
        client = subprocess.Popen([sys.executable, "-c", CLIENT, address, token], stdout=stream)
    try:
        yield
    finally:
        client.terminate()
        client.wait()
    if b'"kind":"event"' not in path.read_bytes():
        raise RuntimeError("the watcher saw no event")


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    yield


@contextlib.contextmanager
def sending(
    port: int, folder: Path, rate: float, seconds: float, core: int
) -> Iterator[subprocess.Popen[str]]:
    """Send at a fixed rate, for longer than the block takes."""
    command = [sys.executable, str(load.HERE / "open_loop.py"), str(port), str(folder)]
    command += ["--rate", str(rate), "--seconds", str(seconds)]
    with machine.pinned(core):
        loader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield loader
    except BaseException:
        loader.kill()
        raise


if __name__ == "__main__":
    raise SystemExit(main())
