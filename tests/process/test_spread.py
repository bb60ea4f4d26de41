"""Connections spread evenly over the workers of the real server."""

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.faults.crashes import worker_pids
from tests.server_process import ServerProcess
from tests.waiting import wait_until

CONNECTIONS = 64
SHARE_MAX = 1.5
ESTABLISHED = "01"
REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def open_connections(server, count, stack) -> list[socket.socket]:
    """Open *count* connections at once; each has been answered and stays open."""
    opened = []
    for _number in range(count):
        connection = stack.enter_context(socket.socket())
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", server.port))
        opened.append(connection)
    for connection in opened:
        connection.settimeout(30)
        connection.sendall(REQUEST)
    for connection in opened:
        assert connection.recv(4 << 10).startswith(b"HTTP/1.1 200")
    return opened


def held_by_worker(server) -> dict[int, int]:
    """Return how many clients' connections each worker has open."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1].endswith(f":{server.port:04X}") and words[3] == ESTABLISHED:
            inodes.add(f"socket:[{words[9]}]")
    return {
        worker: sum(target in inodes for target in open_files(pid))
        for worker, pid in worker_pids(server).items()
    }


def open_files(pid) -> list[str]:
    targets = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        # A file may be closed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            targets.append(str(path.readlink()))
    return targets


@pytest.mark.parametrize("workers", [2, 4])
def test_they_spread_evenly(tmp_path, workers):
    """Of 64 that come at once nobody gets half more than its share, or much less."""
    with (
        ServerProcess(tmp_path / "data", f"--workers={workers}") as server,
        contextlib.ExitStack() as stack,
    ):
        open_connections(server, CONNECTIONS, stack)
        held = held_by_worker(server)
        assert sum(held.values()) == CONNECTIONS
        assert max(held.values()) <= SHARE_MAX * CONNECTIONS / workers, held


@pytest.mark.parametrize("workers", [2, 4])
def test_the_emptier_one_gets_the_next(tmp_path, workers):
    """A worker that was killed and is back gets as many as it has lost."""
    with (
        ServerProcess(tmp_path / "data", f"--workers={workers}") as server,
        contextlib.ExitStack() as stack,
    ):
        open_connections(server, CONNECTIONS, stack)
        before = worker_pids(server)
        lost = held_by_worker(server)[0]
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: worker_pids(server)[0] != before[0])
        open_connections(server, lost, stack)
        held = held_by_worker(server)
        assert sum(held.values()) == CONNECTIONS
        assert max(held.values()) <= SHARE_MAX * CONNECTIONS / workers, held


def test_a_halted_worker_leaves_them_to_the_others(tmp_path):
    """It is the emptiest and takes none; every new connection is served all the same."""
    with (
        ServerProcess(tmp_path / "data", "--workers=2") as server,
        contextlib.ExitStack() as stack,
    ):
        os.kill(worker_pids(server)[0], signal.SIGSTOP)
        open_connections(server, CONNECTIONS, stack)
        assert held_by_worker(server)[1] == CONNECTIONS
