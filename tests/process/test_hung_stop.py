"""A stop comes to its end, whatever hangs."""

import contextlib
import os
import signal

import pytest

from tests.faults.crashes import check_stored
from tests.process.test_workers import post
from tests.server_process import ServerProcess
from tests.sinks.packages import install
from tests.site import Site
from tests.waiting import wait_until

DEADLINE_S = 60.0
HANGING = """
    import asyncio, threading
    from pathlib import Path
    from segsrv.sinks import Kind

    class Hanging:
        def __init__(self, path):
            self.path = path

        async def check(self):
            pass

        async def open(self):
            pass

        async def plan(self, batch, last):
            return {}

        async def send(self, batch, placement):
            Path(self.path).touch()
            await asyncio.to_thread(threading.Event().wait)

        async def close(self):
            pass

        def describe(self):
            return "hanging"

    KIND = Kind(
        schemes=("hanging",),
        place=lambda spec: spec.url.partition(":")[2],
        make=lambda spec: Hanging(spec.url.partition(":")[2]),
    )
"""


@pytest.fixture
def hanging(tmp_path):
    """Make servers whose sink hangs, and that have an event for it."""
    install(tmp_path, HANGING, package="hanging", scheme="hanging")
    with contextlib.ExitStack() as stack:

        def start(*flags):
            path = tmp_path / "called"
            server = ServerProcess(
                *(tmp_path / "data", f"--sink=hanging:{path}", *flags),
                environ={"PYTHONPATH": str(tmp_path)},
            )
            server.start()
            stack.callback(server.kill)
            Site(server).post({"type": "track", "event": "e", "userId": "u"})
            wait_until(path.exists)
            return server

        yield start


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sink_that_hangs_in_a_thread_does_not_keep_a_server(hanging, workers):
    """Nothing ends such a thread, so the process ends with it, after a time, and says so."""
    server = hanging(f"--workers={workers}", "--shutdown-grace-s=0.1")
    assert server.stop() == 1
    assert "process did not stop within" in server.stderr


def test_a_sink_that_hangs_does_not_keep_a_restart(hanging):
    """A worker alone that can't end its work in time becomes its successor all the same."""
    server = hanging("--workers=1", "--shutdown-grace-s=0.1")
    os.kill(server.pid, signal.SIGUSR2)
    wait_until(lambda: "restarted in place" in server.stderr, deadline_s=DEADLINE_S)
    assert "process did not stop within" in server.stderr
    assert Site(server).post({"type": "track", "event": "e", "userId": "u"}).status == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_interrupt_is_meant(hanging, workers):
    """Who interrupts again, and not in the same moment, need not wait for the grace period."""
    server = hanging(f"--workers={workers}", "--shutdown-grace-s=600")

    def is_interrupted():
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGINT)
        return server.exit_code is not None

    wait_until(is_interrupted)
    assert server.exit_code == 1
    assert "is not waited for" in server.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_more_of_sigterm_change_nothing(tmp_path, workers):
    """Service managers and wrappers may send it twice; the server ends in order."""
    with ServerProcess(tmp_path / "data", f"--workers={workers}") as server:
        site = Site(server)
        acknowledged = {post(site) for _time in range(20)}

        def is_asked_again():
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGTERM)
            return server.exit_code is not None

        wait_until(is_asked_again)
    assert server.exit_code == 0
    check_stored(server, acknowledged)
