"""Servers under test as child processes: pinned to a core, waited for, ended by their own id."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from machine import REPOSITORY, pinned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from load import Prepared

START_S_MAX = 20.0
STOP_S_MAX = 30.0
# As segsrv and our own servers say it, and as VictoriaLogs does.
LISTENING = re.compile(rb"(?:listening on|server at) http://127\.0\.0\.1:(\d+)")


@dataclass(slots=True)
class Server:
    """A running server; `exit_code` is set once it was stopped."""

    process: subprocess.Popen[bytes]
    port: int
    exit_code: int | None = None

    def stop(self) -> None:
        """End it the way that a deployment does, and kill it only if that takes too long."""
        self.process.terminate()
        try:
            self.exit_code = self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.exit_code = self.process.wait()


@contextmanager
def running(
    arguments: list[str],
    *,
    core: int,
    log: Path,
    more_cores: tuple[int, ...] = (),
    program: str = sys.executable,
    folder: Path = REPOSITORY,
) -> Iterator[Server]:
    """Start `PROGRAM ARGUMENTS` on *core* in *folder*, and wait until it says where it listens."""
    # The settings of whoever runs the benchmark must not leak into the server under test.
    environ = {name: text for name, text in os.environ.items() if not name.startswith("SEGSRV_")}
    environ["PYTHONUNBUFFERED"] = "1"
    with log.open("wb") as output, pinned(core, *more_cores):
        process = subprocess.Popen(
            [program, *arguments],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        server = Server(process, _wait_for_port(process, log))
        yield server
        if server.exit_code is None:
            server.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        if found := LISTENING.search(log.read_bytes()):
            return int(found[1])
        if process.poll() is not None:
            break
        time.sleep(0.02)
    text = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the server did not start (exit code {process.poll()}):\n{text}")


def stop_children_on_sigterm() -> None:
    """Leave through the `finally` blocks when this process is terminated."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def check_answer(port: int, request: Prepared, *, is_json: bool = True) -> None:
    """Send *request* once and insist on what an SDK insists on: 200 and a JSON object.

    A server that speaks to no SDK need not answer with JSON.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", request.path, request.body, request.headers)
        response = connection.getresponse()
        status, body = response.status, response.read()
    finally:
        connection.close()
    if status != 200 or (is_json and not isinstance(orjson.loads(body), dict)):
        raise RuntimeError(f"expected 200 and a JSON object, got {status} {body[:200]!r}")
