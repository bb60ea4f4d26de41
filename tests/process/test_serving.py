"""`segsrv serve` with a delivery process beside its workers, here one that delivers nothing."""

import os
import re
import signal

import pytest

from tests.server_process import ServerProcess
from tests.site import Site, new_id
from tests.waiting import wait_until

WITH_DELIVERY = """
import os, signal, sys
from segsrv import cli, process

def run_delivery(settings, board, start):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    parent = os.getppid()
    start.on_ready()
    print(f"delivery pid={os.getpid()} workers={board.workers}", file=sys.stderr, flush=True)
    while os.getppid() == parent and not signal.sigtimedwait({signal.SIGTERM}, 0.1):
        pass
    print("delivery stopped", file=sys.stderr, flush=True)
    return 0

serve = process.serve
process.serve = lambda settings, announce: serve(settings, announce, run_delivery)
sys.exit(cli.main())
"""


def delivery_pids(server) -> list[int]:
    return [int(pid) for pid in re.findall(r"^delivery pid=(\d+)", server.stderr, re.MULTILINE)]


@pytest.mark.parametrize("workers", [1, 2])
def test_delivery_is_killed_and_stopped(tmp_path, workers):
    """No request notices that it dies, it comes back, and it ends behind the workers."""
    program = ("-c", WITH_DELIVERY)
    with ServerProcess(tmp_path / "data", f"--workers={workers}", program=program) as server:
        site = Site(server)
        wait_until(lambda: delivery_pids(server))
        first = delivery_pids(server)[0]
        os.kill(first, signal.SIGKILL)
        while len(delivery_pids(server)) == 1:
            assert site.post({"type": "track", "messageId": new_id()}).status == 200

        assert f"workers={workers}" in server.stderr
        assert server.stderr.count("started worker=") == workers
        assert "process ended, starting it again name=delivery status=-9" in server.stderr
    assert server.exit_code == 0
    ends = re.findall(r"stopping worker|delivery stopped", server.stderr)
    assert ends == ["stopping worker"] * workers + ["delivery stopped"]
