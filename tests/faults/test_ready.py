"""`/ready` of the real server tells the truth, and at once, whatever the journal's disk does."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.parse

import pytest

from tests.faults.crashes import check_stored, worker_pids
from tests.faults.disks import mount, unmount
from tests.faults.hung_disk import COMMIT, hung
from tests.server_process import ServerProcess
from tests.site import FLAT, KEY, Answer, Site, basic, new_id
from tests.waiting import wait_until

QUICK = ("--flush-interval-s=0.01", "--sink-retry-s-max=0.2")
OPS = "--ops-listen=127.0.0.1:0"
MIB = 1 << 20
EVENT_BYTES = 30_000
READY_S_MAX = 1.0
READY_TIMEOUT_S = 10.0
"""On a machine that is busy with other tests; a hung disk lasts much longer."""


def event(event_id: str, size: int = EVENT_BYTES) -> dict:
    return {"type": "track", "event": "e", "messageId": event_id, "properties": {"p": "x" * size}}


def ops_site(site: Site) -> Site:
    """Return the operators' listener of *site* as a site of its own."""
    found = re.search(r"^ *ops +(http://\S+)$", site.process.stdout, re.MULTILINE)
    ops = Site(site.process)
    split = urllib.parse.urlsplit(found[1])
    ops.address = (split.hostname, split.port)
    return ops


def ready(site: Site) -> Answer:
    connection = http.client.HTTPConnection(*site.address, timeout=READY_TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET", "/ready")
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())


def check_not_ready(site: Site, code: str) -> None:
    """Check that `/ready` says *code* each time, and does not take long to."""
    took_s = []
    for _time in range(5):
        started_s = time.monotonic()
        answer = ready(site)
        took_s.append(time.monotonic() - started_s)
        assert (answer.status, answer.json()["code"]) == (503, code)
        assert int(answer.headers["Retry-After"]) > 0
    assert min(took_s) < READY_S_MAX


class Poster(threading.Thread):
    """Sends one event, and waits for the answer for as long as it takes."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.event_id = new_id()
        self.status = 0
        self._site = site
        self.start()

    def run(self) -> None:
        try:
            self.status = self._site.post(event(self.event_id)).status
        except (OSError, http.client.HTTPException):
            self.status = -1


class TestHungDisk:
    @pytest.mark.parametrize("flags", [(), (OPS,), (OPS, "--workers=2")], ids=["1", "ops", "2"])
    def test_a_commit_that_hangs(self, tmp_path, flags):
        """While an event waits for a sync that does not return, each `/ready` is 503 at once."""
        with ServerProcess(tmp_path / "data", *QUICK, *flags) as server:
            site = Site(server)
            sites = [site, ops_site(site)] if OPS in flags else [site]
            for one in sites:
                wait_until(lambda one=one: one.get("/ready").status == 200)
            with contextlib.ExitStack() as stack:
                for worker, pid in worker_pids(server).items():
                    log = tmp_path / f"strace-{worker}"
                    stack.enter_context(hung(pid, COMMIT, log))
                posters = [Poster(site) for _time in range(20)]
                for one in sites:
                    wait_until(lambda one=one: ready(one).status == 503)
                    check_not_ready(one, "journal_slow")
                assert site.get("/health").status == 200
                assert all(poster.is_alive() for poster in posters)
            for poster in posters:
                poster.join()
            assert {poster.status for poster in posters} == {200}
            for one in sites:
                wait_until(lambda one=one: one.get("/ready").status == 200)
            site.stored(*(poster.event_id for poster in posters))
        assert server.exit_code == 0

    def test_a_look_that_hangs(self, tmp_path):
        """A disk that can't even be asked for its free space is found without any event."""
        with ServerProcess(tmp_path / "data", *QUICK) as server:
            site = Site(server)
            with hung(server.pid, "fstatfs", tmp_path / "strace"):
                check_not_ready(site, "journal_slow")
            wait_until(lambda: site.get("/ready").status == 200)

    def test_memory_stays_bounded(self, tmp_path):
        """Events that wait fill `pending_bytes_max`, and not a request more is taken in."""
        with ServerProcess(tmp_path / "data", *QUICK, f"--pending-bytes-max={MIB}") as server:
            site = Site(server)
            with contextlib.ExitStack() as stack, hung(server.pid, COMMIT, tmp_path / "s"):
                waiting = []
                for _time in range(100):
                    client = stack.enter_context(socket.create_connection(site.address, timeout=30))
                    client.sendall(_post(event(new_id())))
                    waiting.append(client)
                    # The first is at the disk alone.
                    wait_until(lambda: site.metric("segsrv_journal_pending_bytes") > 0)
                wait_until(lambda: ready(site).json()["code"] == "journal_slow")
                assert site.metric("segsrv_journal_pending_bytes") <= MIB
                taken = sum(not _is_answered(client) for client in waiting)
                assert 0 < taken * EVENT_BYTES <= MIB
                answer = site.post(event(new_id()))
                assert (answer.status, answer.json()["code"]) == (503, "journal_full")
            assert server.exit_code is None
            wait_until(lambda: site.get("/ready").status == 200)

    def test_a_stop(self, tmp_path):
        """A worker that its disk does not let go is killed, and the others end in order."""
        flags = ("--workers=2", "--shutdown-grace-s=0")
        with ServerProcess(tmp_path / "data", *QUICK, *flags) as server:
            site = Site(server)
            first = new_id()
            assert site.post(event(first)).status == 200
            site.stored(first)
            with hung(worker_pids(server)[1], COMMIT, tmp_path / "strace"):
                posters = []

                def is_waiting():
                    # Each goes to one of the two workers.
                    posters.append(Poster(site))
                    return site.metric("segsrv_journal_pending_bytes", worker=1)

                wait_until(is_waiting)
                os.kill(server.pid, signal.SIGTERM)
                # The tracer holds it even then, as a kernel would that waits for a dead disk.
                wait_until(lambda: server.exit_code is not None)
            assert server.exit_code == 1
            assert "killed name=w1" in server.stderr
            for poster in posters:
                poster.join()


class TestFull:
    def test_a_disk(self, tmp_path):
        """A full disk is known without a post, and when it has space again too."""
        disk = tmp_path / "data"
        disk.mkdir()
        mount(disk, "-t", "tmpfs", "-o", "size=32m", "tmpfs")
        try:
            with ServerProcess(disk, *QUICK, f"--disk-free-bytes-min={MIB}") as server:
                site = Site(server)
                assert ready(site).status == 200
                filler = disk / "filler"
                with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(1 << 16))
                check_not_ready(site, "journal_full")
                answer = site.post(event(new_id()))
                assert (answer.status, answer.json()["code"]) == (503, "journal_full")
                filler.unlink()
                wait_until(lambda: ready(site).status == 200)
        finally:
            unmount(disk)

    def test_a_journal(self, tmp_path):
        """From the first event that is refused until some room is free again `/ready` is 503."""
        out = tmp_path / "data" / "events"
        out.parent.mkdir()
        out.write_text("in the way")
        flags = (*QUICK, f"--journal-bytes-max={MIB}")
        with ServerProcess(tmp_path / "data", *flags) as server:
            site = Site(server)
            acknowledged = set()
            while True:
                event_id = new_id()
                answer = site.post(event(event_id))
                if answer.status != 200:
                    break
                acknowledged.add(event_id)
                assert ready(site).status == 200
            assert (answer.status, answer.json()["code"]) == (503, "journal_full")
            assert ready(site).status == 503
            # There is room for small ones, and they are taken; but the next may be large.
            small = new_id()
            assert site.post(event(small, size=1)).status == 200
            check_not_ready(site, "journal_full")
            assert site.metric("segsrv_journal_ready") == 0

            out.unlink()
            wait_until(lambda: ready(site).status == 200)
            assert site.metric("segsrv_journal_ready") == 1
            site.stored(*acknowledged, small)
        check_stored(server, {*acknowledged, small})


def _post(body: dict) -> bytes:
    data = json.dumps(body).encode()
    return (
        f"POST {FLAT} HTTP/1.1\r\nHost: h\r\nAuthorization: {basic(KEY)}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def _is_answered(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return False
