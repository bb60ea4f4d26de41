"""What a hostile client costs others: the worst bodies that a search finds, beside a steady one.

    python bench/abuse.py

A search with a fixed seed tries bodies of up to 4 MiB over shapes, encodings and fields, each on a
few connections for a moment, and goes on from those that kept a steady client of 200 requests/s
waiting longest. The worst, and those that are known, then run for longer, with a fresh server for
each of several rounds. Load goes to a server of its own on 127.0.0.1, for a bounded time.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import load
import machine
import orjson
from abuse_bodies import KNOWN, Attack, changed, random_attack, request_of
from sender import is_complete
from servers import Server, check_answer, running, stop_children_on_sigterm

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
WRITE_KEY = "bench-key-0123456789abcdef"
CONNECTIONS = 4
ANSWER_S_MAX = 60.0
SAMPLE_S = 0.02
ANSWERS = {"200", "400", "401", "503"}
P99_MS_MAX = {False: 50.0, True: 250.0}
"""By whether the attacker has a valid key."""
PEAK_MIB_MAX = 350.0
REST_MIB_MAX = 150.0


@dataclass(slots=True)
class Round:
    """One round: what each attack did, the steady client alone, and memory in MiB."""

    seen: list[Seen]
    alone: Seen
    peak_mib: float
    rest_mib: float


@dataclass(slots=True)
class Seen:
    """What one attack did: the steady client's times, the attacker's answers, the server's CPU."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    failed: float
    answers: Counter[str] = field(default_factory=Counter)
    cpu_ms: float = 0.0


class Attackers:
    """Send one request again and again on a few connections, until told to stop."""

    def __init__(self, port: int, request: bytes) -> None:
        self.answers: Counter[str] = Counter()
        self._port = port
        self._request = request
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(CONNECTIONS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        connection: socket.socket | None = None
        while not self._is_over.is_set():
            try:
                if connection is None:
                    connection = socket.create_connection(("127.0.0.1", self._port), ANSWER_S_MAX)
                connection.sendall(self._request)
                answer, is_closed = _answer(connection)
            except OSError:
                # Refused while the body was on its way.
                answer, is_closed = b"", True
            self.answers[answer[9:12].decode() or "cut off"] += 1
            if is_closed and connection is not None:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


def _answer(connection: socket.socket) -> tuple[bytes, bool]:
    received = b""
    while not is_complete(received):
        part = connection.recv(65_536)
        if not part:
            return received, True
        received += part
    return received, b"\r\nconnection: close" in received.lower()


class Memory:
    """Samples a process's anonymous resident memory while it is attacked."""

    def __init__(self, pid: int) -> None:
        self.peak_mib = 0.0
        self._status = Path(f"/proc/{pid}/status")
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def now_mib(self) -> float:
        for line in self._status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
        raise ValueError("this kernel says nothing of anonymous memory")

    def _sample(self) -> None:
        while not self._is_over.wait(SAMPLE_S):
            self.peak_mib = max(self.peak_mib, self.now_mib())


class Trial:
    """A running server with a steady client beside it."""

    def __init__(self, server: Server, client: subprocess.Popen[str]) -> None:
        self._server = server
        self._client = client

    def run(self, attack: Attack | None, seconds: float) -> Seen:
        """Attack for *seconds*; without an *attack* the steady client is alone."""
        port = self._server.port
        if attack is None:
            return self._steady(seconds)
        cpu_before_s = self._cpu_s()
        with Attackers(port, request_of(attack, WRITE_KEY)) as attackers:
            seen = self._steady(seconds)
        seen.answers = attackers.answers
        answered = sum(seen.answers.values())
        seen.cpu_ms = (self._cpu_s() - cpu_before_s) * 1e3 / max(answered, 1)
        return seen

    def _steady(self, seconds: float) -> Seen:
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        print(seconds, file=self._client.stdin, flush=True)
        result: dict[str, float] = orjson.loads(self._client.stdout.readline())
        return Seen(
            p50_ms=result["p50_ms"],
            p99_ms=result["p99_ms"],
            max_ms=result["max_ms"],
            failed=result["failed"],
        )

    def _cpu_s(self) -> float:
        tasks = Path(f"/proc/{self._server.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def trial(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Trial, Server]]:
    """Start a server on a core, a steady client on another one, and end both."""
    arguments = ["-m", "segsrv", "serve", "--host", "127.0.0.1", "--port", "0"]
    arguments += ["--data-dir", str(folder / "data"), "--write-key", WRITE_KEY]
    arguments += ["--durability", "write", *options.server_arg]
    shape = load.make_shapes(100)["single"]
    prepared = load.prepare(
        shape, path="/api/v1/segment", write_key=WRITE_KEY, event_bytes=0, seed=options.seed
    )
    with running(arguments, core=options.server_core, log=folder / "server.log") as server:
        check_answer(server.port, prepared[0])
        load.write_requests(prepared, folder / "requests", server.port)
        command = [sys.executable, str(HERE / "steady.py"), str(server.port)]
        command += [str(folder / "requests"), "--rate", str(options.rate)]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            steady = Trial(server, client)
            steady.run(None, 1.0)
            yield steady, server
        finally:
            _end(client.stdin)
            client.wait(30)


def _end(stream: IO[str] | None) -> None:
    if stream is not None:
        stream.close()


def search(options: argparse.Namespace, steady: Trial, *, has_key: bool) -> list[Attack]:
    """Return the worst attacks that *options.tries* found, worst first."""
    rng = random.Random(options.seed + has_key)
    seen: dict[Attack, float] = {}
    for number in range(options.tries):
        worst = sorted(seen, key=lambda attack: -seen[attack])[:8]
        if number < options.tries // 2 or not worst:
            attack = random_attack(rng, has_key=has_key)
        else:
            attack = changed(rng.choice(worst), rng, has_key=has_key)
        if attack not in seen:
            seen[attack] = steady.run(attack, options.try_s).p99_ms
    return sorted(seen, key=lambda attack: -seen[attack])[: options.worst]


def measure(options: argparse.Namespace, attacks: list[Attack], folder: Path) -> Round:
    """Run *attacks* one after the other on a new server; return what they did, and the memory."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        trial(options, Path(scratch)) as (steady, server),
        Memory(server.process.pid) as memory,
    ):
        alone = steady.run(None, options.seconds)
        seen = [steady.run(attack, options.seconds) for attack in attacks]
        time.sleep(options.rest_s)
        return Round(seen, alone, memory.peak_mib, memory.now_mib())


def report(options: argparse.Namespace, attacks: list[Attack], folder: Path) -> int:
    """Measure all rounds, print a table, and return 1 if a bound was broken."""
    rounds = [measure(options, attacks, folder) for _ in range(options.rounds)]
    alone = statistics.median(one.alone.p99_ms for one in rounds)
    print(f"the steady client alone: p99 {alone:.1f} ms (median of {options.rounds} rounds)\n")
    print("| attack | key | CPU ms a request | answers | steady p50 / p99 ms | limit |")
    print("|---|---|---|---|---|---|")
    faults = []
    for index, attack in enumerate(attacks):
        all_seen = [one.seen[index] for one in rounds]
        p50, p99, cpu = (
            statistics.median(getattr(seen, name) for seen in all_seen)
            for name in ("p50_ms", "p99_ms", "cpu_ms")
        )
        answers = sum((seen.answers for seen in all_seen), Counter())
        shown = ", ".join(f"{status} x{count}" for status, count in sorted(answers.items()))
        limit = P99_MS_MAX[has_key(attack)]
        print(
            f"| {attack} | {attack.key} | {cpu:.1f} | {shown} | {p50:.1f} / {p99:.1f} | {limit:g} |"
        )
        if p99 > limit:
            faults.append(f"{attack}: p99 {p99:.1f} ms, the limit is {limit:g}")
        if wrong := sorted(set(answers) - ANSWERS):
            faults.append(f"{attack}: unexpected answers {', '.join(wrong)}")
        if failed := sum(seen.failed for seen in all_seen):
            faults.append(f"{attack}: {failed} requests of the steady client failed")
    peak = statistics.median(one.peak_mib for one in rounds)
    rest = statistics.median(one.rest_mib for one in rounds)
    print(f"\nanonymous memory: at most {peak:.0f} MiB (limit {PEAK_MIB_MAX:g}), ", end="")
    print(f"{rest:.0f} MiB {options.rest_s:g} s later (limit {REST_MIB_MAX:g})")
    if peak > PEAK_MIB_MAX or rest > REST_MIB_MAX:
        faults.append("memory is over a limit")
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


def has_key(attack: Attack) -> bool:
    return attack.key in ("header", "body")


def _options() -> argparse.Namespace:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--tries", type=int, default=120, help="bodies tried with a key, and without"
    )
    parser.add_argument("--try-s", type=float, default=0.5, help="how long each is tried")
    parser.add_argument("--worst", type=int, default=3, help="how many of the found are measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of an attack")
    parser.add_argument(
        "--rest-s", type=float, default=60.0, help="until memory is looked at again"
    )
    parser.add_argument("--rate", type=float, default=200.0, help="steady requests a second")
    parser.add_argument("--server-core", type=int, default=cores[0])
    parser.add_argument("--client-core", type=int, default=cores[-1])
    parser.add_argument("--server-arg", action="append", default=[], help="passed on to segsrv")
    parser.add_argument("--scratch", type=Path, help="folder for data directories")
    return parser.parse_args()


def main() -> int:
    options = _options()
    stop_children_on_sigterm()
    for name, text in machine.describe(options.scratch).items():
        print(f"{name}: {text}")
    with (
        tempfile.TemporaryDirectory(dir=options.scratch) as scratch,
        machine.pinned(options.client_core),
    ):
        attacks = [replace(attack, key="none") for attack in KNOWN[:2]]
        attacks += [replace(attack, key="header") for attack in KNOWN]
        if options.tries:
            for is_known in (False, True):
                with (
                    tempfile.TemporaryDirectory(dir=scratch) as folder,
                    trial(options, Path(folder)) as (steady, _server),
                ):
                    attacks += search(options, steady, has_key=is_known)
        return report(options, attacks, Path(scratch))


if __name__ == "__main__":
    sys.exit(main())
