"""A stop comes to its end, whatever hangs."""

import pytest

from tests.server_process import ServerProcess
from tests.sinks.packages import install
from tests.site import Site
from tests.waiting import wait_until

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


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sink_that_hangs_in_a_thread_does_not_keep_a_server(tmp_path, workers):
    """Nothing ends such a thread, so the process ends with it, after a time, and says so."""
    install(tmp_path, HANGING, package="hanging", scheme="hanging")
    path = tmp_path / "called"
    server = ServerProcess(
        tmp_path / "data",
        f"--workers={workers}",
        f"--sink=hanging:{path}",
        "--shutdown-grace-s=0.1",
        environ={"PYTHONPATH": str(tmp_path)},
    )
    server.start()
    try:
        Site(server).post({"type": "track", "event": "e", "userId": "u"})
        wait_until(path.exists)
        assert server.stop() == 1
    finally:
        server.kill()
    assert "process did not stop within" in server.stderr
