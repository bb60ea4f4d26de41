"""`segsrv serve` with a delivery process beside its workers."""

import os
import re
import signal

import pytest

from tests.faults.crashes import check_stored, pids
from tests.server_process import ServerProcess
from tests.site import Site, new_id
from tests.waiting import wait_until


def post(site: Site) -> str:
    event_id = new_id()
    answer = site.post({"type": "track", "event": "e", "messageId": event_id})
    assert answer.status == 200
    return event_id


@pytest.mark.parametrize("workers", [1, 2])
def test_delivery_is_killed_and_stopped(tmp_path, workers):
    """No request notices that it dies, it comes back, and it ends behind the workers."""
    flags = (f"--workers={workers}", "--delivery=process", "--flush-interval-s=0.01")
    with ServerProcess(tmp_path / "data", *flags) as server:
        site = Site(server)
        wait_until(lambda: "delivery" in pids(server))
        first = pids(server)["delivery"]
        acknowledged = {post(site)}
        os.kill(first, signal.SIGKILL)
        while pids(server)["delivery"] == first:
            acknowledged.add(post(site))
        acknowledged.add(post(site))

        assert server.stderr.count("started worker=") == workers
        assert "process ended, starting it again name=delivery status=-9" in server.stderr
    assert server.exit_code == 0
    ends = re.findall(r"stopping (worker|delivery)", server.stderr)
    assert ends == ["worker"] * workers + ["delivery"]
    check_stored(server, acknowledged)


def test_an_interrupt_from_a_terminal_ends_delivery_last(tmp_path):
    """Ctrl-C reaches every process at once; what the last requests brought is delivered still."""
    flags = ("--workers=2", "--flush-interval-s=0.01")
    with ServerProcess(tmp_path / "data", *flags) as server:
        site = Site(server)
        wait_until(lambda: len(pids(server)) == 3)
        acknowledged = {post(site) for _number in range(20)}
        for pid in (server.pid, *pids(server).values()):
            os.kill(pid, signal.SIGINT)
        wait_until(lambda: server.exit_code is not None)
    assert server.exit_code == 0
    assert re.findall(r"stopping (worker|delivery)", server.stderr)[-1] == "delivery"
    check_stored(server, acknowledged)
