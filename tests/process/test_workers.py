"""The real server with several workers, when one of them is in trouble."""

import contextlib
import os
import signal

import pytest

from tests.faults.crashes import check_stored, worker_pids
from tests.faults.disks import mount, unmount
from tests.server_process import ServerProcess
from tests.site import Site, new_id
from tests.waiting import wait_until

QUICK = ("--flush-interval-s=0.01", "--sink-retry-s-max=0.2")
DISK_INODES = 200


@pytest.fixture
def disk_of_few_files(tmp_path):
    """Mount a disk that has room, but not for many files, as the data directory."""
    disk = tmp_path / "data"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", f"size=512m,nr_inodes={DISK_INODES}", "tmpfs")
    yield disk
    unmount(disk)


class Filler:
    """Takes the inodes of a disk, with empty files."""

    def __init__(self, disk):
        self._disk = disk
        self._taken = []

    def fill(self):
        with contextlib.suppress(OSError):
            while True:
                path = self._disk / f"taken-{len(self._taken)}"
                path.touch()
                self._taken.append(path)

    def empty(self):
        for path in self._taken:
            path.unlink()


def post(site) -> str:
    event_id = new_id()
    assert site.post({"type": "track", "event": "e", "messageId": event_id}).status == 200
    return event_id


def test_a_worker_that_can_not_start_again_stops_no_other(disk_of_few_files):
    """Its siblings take events meanwhile, the reason is said once, and it comes back by itself."""
    with ServerProcess(disk_of_few_files, "--workers=2", *QUICK) as server:
        site = Site(server)
        acknowledged = set()

        def has_event_of_each_worker():
            acknowledged.add(post(site))
            return all(site.metric("segsrv_events_total", worker=number) for number in (0, 1))

        # A journal that is empty needs no new file when it is opened again.
        wait_until(has_event_of_each_worker)
        site.stored(*acknowledged)
        filler = Filler(disk_of_few_files)
        before = worker_pids(server)
        killed = set()

        def is_stuck():
            # A report that is replaced, may give an inode back.
            filler.fill()
            pid = worker_pids(server)[1]
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            return "segsrv: " in server.stderr

        wait_until(is_stuck)
        acknowledged |= {post(site) for _time in range(20)}
        assert server.exit_code is None
        filler.empty()
        wait_until(lambda: worker_pids(server)[1] not in killed)
        assert worker_pids(server)[0] == before[0]
        acknowledged |= {post(site) for _time in range(20)}
        site.stored(*acknowledged)
    assert server.exit_code == 0
    reasons = [line for line in server.stderr.splitlines() if line.startswith("segsrv: ")]
    assert len(reasons) == 1, server.stderr
    assert "No space left on device" in reasons[0]
    check_stored(server, acknowledged)


def test_a_halted_worker_does_not_block_the_end(tmp_path):
    """A worker that somebody stopped with SIGSTOP ends in order when the server is to stop."""
    with ServerProcess(tmp_path / "data", "--workers=2", *QUICK) as server:
        acknowledged = {post(Site(server)) for _time in range(20)}
        os.kill(worker_pids(server)[1], signal.SIGSTOP)
        assert server.stop() == 0
    check_stored(server, acknowledged)
