"""The real server with several workers, when one of them is in trouble."""

import contextlib
import fcntl
import os
import signal
from pathlib import Path

from tests.faults.crashes import check_stored, parent_of, worker_pids
from tests.server_process import ServerProcess
from tests.site import Site, new_id
from tests.waiting import wait_until

QUICK = ("--flush-interval-s=0.01", "--sink-retry-s-max=0.2")
IMPATIENT = """
import sys
from segsrv.process import supervisor
from segsrv.cli import main
supervisor.RESTART_S_MAX = 0.4
sys.exit(main())
"""
"""A server that soon tries again to start what has ended often."""


def post(site) -> str:
    event_id = new_id()
    assert site.post({"type": "track", "event": "e", "messageId": event_id}).status == 200
    return event_id


@contextlib.contextmanager
def locked(path):
    """Hold the lock of a journal, as another server would, for the length of a `with` block."""
    fd = os.open(path, os.O_RDWR)
    try:
        wait_until(lambda: is_taken(fd))
        yield
    finally:
        os.close(fd)


def children_of(parent: int) -> set[int]:
    """Return the processes that *parent* has started and that are still there."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return {pid for pid in pids if parent_of(pid) == parent}


def is_taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_worker_that_can_not_start_again_stops_no_other(tmp_path):
    """Its siblings take events meanwhile, the reason is said once, and it comes back by itself."""
    options = {"program": ("-c", IMPATIENT)}
    with ServerProcess(tmp_path / "data", "--workers=2", *QUICK, **options) as server:
        site = Site(server)
        acknowledged = {post(site) for _time in range(20)}
        before = worker_pids(server)
        os.kill(before[1], signal.SIGKILL)
        with locked(tmp_path / "data" / "journal" / "w1" / "lock"):
            wait_until(lambda: "is in use by process" in server.stderr)
            acknowledged |= {post(site) for _time in range(20)}
            tries = set()

            def is_tried_often():
                # Each try is a process of its own.
                tries.update(children_of(server.pid))
                return len(tries) >= len(before) + 4

            wait_until(is_tried_often)
            assert server.exit_code is None
        wait_until(lambda: worker_pids(server)[1] != before[1])
        assert worker_pids(server)[0] == before[0]
        acknowledged |= {post(site) for _time in range(20)}
        site.stored(*acknowledged)
    assert server.exit_code == 0
    reasons = [line for line in server.stderr.splitlines() if line.startswith("segsrv: ")]
    assert len(reasons) == 1, server.stderr
    check_stored(server, acknowledged)


def test_a_halted_worker_does_not_block_the_end(tmp_path):
    """A worker that somebody stopped with SIGSTOP ends in order when the server is to stop."""
    with ServerProcess(tmp_path / "data", "--workers=2", *QUICK) as server:
        acknowledged = {post(Site(server)) for _time in range(20)}
        os.kill(worker_pids(server)[1], signal.SIGSTOP)
        assert server.stop() == 0
    check_stored(server, acknowledged)
