"""What the fault tests do to a server, and what they ask of its files afterwards."""

import contextlib
import fcntl
import os
import re
import signal
from collections import Counter
from pathlib import Path

from tests.server_process import ServerProcess
from tests.site import id_of
from tests.waiting import wait_until


def pids(server: ServerProcess) -> dict[str, int]:
    """Return the newest process of each worker and of delivery, by the server's own log."""
    started = re.findall(r"started (worker=\d+|delivery) pid=(\d+)", server.stderr)
    return {name: int(pid) for name, pid in started}


def parent_of(pid: int) -> int:
    """Return the process that started *pid*; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def worker_pids(server: ServerProcess) -> dict[int, int]:
    """Return the newest process of each worker, by the server's own log."""
    started = re.findall(r"started worker=(\d+) pid=(\d+)", server.stderr)
    return {int(worker): int(pid) for worker, pid in started}


def kill_all(server: ServerProcess) -> None:
    """End a server and its workers with SIGKILL, as a machine that stops would."""
    children = set(pids(server).values()) - {server.pid}
    server.kill()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_unlocked(server.data_dir))


def is_unlocked(data_dir: Path) -> bool:
    """Say whether no process has a journal of *data_dir* open."""
    for path in [*data_dir.glob("journal/*/lock"), *data_dir.glob("state/delivery.lock")]:
        fd = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
    return True


def check_stored(server: ServerProcess, acknowledged: set[str]) -> None:
    """Check that the files hold every acknowledged event, and none twice.

    Events that were sent but not acknowledged may be there too.
    """
    counts = Counter(id_of(event) for event in server.events())
    missing = acknowledged - counts.keys()
    assert not missing, f"{len(missing)} of {len(acknowledged)} acknowledged events are lost"
    twice = [event_id for event_id, count in counts.items() if count > 1]
    assert not twice, f"{len(twice)} events are stored twice"


def check_whole_lines(server: ServerProcess) -> None:
    """Check that no stored file ends in the middle of a line."""
    for path in (server.data_dir / "events").glob("**/*.ndjson"):
        data = path.read_bytes()
        assert not data or data.endswith(b"\n"), f"{path.name} ends in the middle of a line"
