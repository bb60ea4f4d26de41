"""A process whose event loop stands still is noticed, killed and started again."""

import os
import signal
import time

import pytest

from tests.faults.crashes import check_stored, pids
from tests.faults.hung_disk import hung
from tests.faults.test_ready import Poster
from tests.process.test_workers import post
from tests.server_process import ServerProcess
from tests.site import Site
from tests.waiting import wait_until

HUNG_S = 2.0
PROGRAM = f"""
import sys
from segsrv.process import supervisor
from segsrv.cli import main
supervisor.HUNG_S = {HUNG_S}
sys.exit(main())
"""
QUICK = ("--flush-interval-s=0.01", "--sink-retry-s-max=0.2")


def serving(data_dir):
    return ServerProcess(data_dir, "--workers=2", *QUICK, program=("-c", PROGRAM))


@pytest.mark.parametrize("name", ["worker=1", "delivery"])
def test_one_that_is_halted(tmp_path, name):
    """A worker or delivery stopped by SIGSTOP counts as hung; nothing acknowledged is lost."""
    with serving(tmp_path / "data") as server:
        site = Site(server)
        acknowledged = {post(site) for _time in range(20)}
        wait_until(lambda: "delivery" in pids(server))
        before = pids(server)
        os.kill(before[name], signal.SIGSTOP)
        wait_until(lambda: pids(server)[name] != before[name])
        assert pids(server) | {name: 0} == before | {name: 0}
        acknowledged |= {post(site) for _time in range(20)}
    assert server.exit_code == 0
    line = next(line for line in server.stderr.splitlines() if "process hangs for" in line)
    assert f"pid={before[name]}" in line
    check_stored(server, acknowledged)


def test_a_disk_that_hangs(tmp_path):
    """A worker whose disk does not answer waits for it, and is not hung."""
    with serving(tmp_path / "data") as server:
        site = Site(server)
        acknowledged = {post(site) for _time in range(4)}
        wait_until(lambda: "delivery" in pids(server))
        waiting = pids(server)["worker=0"]
        with hung(waiting, "fdatasync,pwritev2", tmp_path / "strace"):
            posters = [Poster(site) for _time in range(20)]
            wait_until(lambda: 0 < sum(poster.is_alive() for poster in posters) < len(posters))
            wait_until_one_was_killed(server, "worker=1")
            held = [poster for poster in posters if poster.is_alive()]
            assert held
            assert pids(server)["worker=0"] == waiting
        for poster in posters:
            poster.join()
        # One of the others may have been at the worker that was killed.
        assert {poster.status for poster in held} == {200}
        acknowledged |= {poster.event_id for poster in posters if poster.status == 200}
    assert server.exit_code == 0
    check_stored(server, acknowledged)


def wait_until_one_was_killed(server, name) -> None:
    """Halt a process and wait for its successor: the parent has looked at all children by then."""
    before = pids(server)[name]
    os.kill(before, signal.SIGSTOP)
    wait_until(lambda: pids(server)[name] != before)


def test_a_server_that_was_halted_as_a_whole(tmp_path):
    """All processes are stopped and go on later, in a frozen container say: nobody is killed."""
    with serving(tmp_path / "data") as server:
        site = Site(server)
        wait_until(lambda: "delivery" in pids(server))
        before = pids(server)
        # The parent first: when it goes on it sees children that have been silent for long.
        everyone = [server.pid, *before.values()]
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(HUNG_S + 1)
        for pid in everyone:
            os.kill(pid, signal.SIGCONT)
        acknowledged = {post(site) for _time in range(20)}
        wait_until_one_was_killed(server, "worker=1")
        assert pids(server) | {"worker=1": 0} == before | {"worker=1": 0}
    assert server.exit_code == 0
    assert server.stderr.count("process hangs") == 1
    check_stored(server, acknowledged)
