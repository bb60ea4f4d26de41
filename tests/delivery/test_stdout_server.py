"""The real server with standard output as a sink, as it is used in pipes and containers."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from segsrv.errors import SinkClosed
from tests.command import segsrv
from tests.delivery.pipes import Pipe
from tests.faults.crashes import worker_pids
from tests.server_process import REPOSITORY, ServerProcess
from tests.site import Site, id_of, new_id
from tests.waiting import wait_until

FLAGS = ("--sink=stdout:", "--flush-interval-s=0.01", "--shutdown-grace-s=0.5")
PIPE_BYTES = 4_096


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Return a pipe that is soon full."""
    made = Pipe()
    fcntl.fcntl(made.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield made
    made.close()


def event(event_id: str, size: int = 10) -> dict:
    return {"type": "track", "messageId": event_id, "properties": {"x": "x" * size}}


def post(site: Site, count: int, size: int = 10) -> list[str]:
    ids = [new_id() for _number in range(count)]
    for event_id in ids:
        assert site.post(event(event_id, size)).status == 200
    return ids


class TestLines:
    @pytest.mark.parametrize("flags", [(), ("--workers=2",)], ids=["one_worker", "two_workers"])
    def test_only_events_come_out(self, tmp_path, pipe, flags):
        """Every event is a line of its own; banner and log are on stderr."""
        with ServerProcess(tmp_path / "data", *FLAGS, *flags, stdout=pipe.writer) as server:
            pipe.close_writer()
            consumer = pipe.read_in_background()
            # Half of them longer than a pipe takes at once.
            ids = post(Site(server), 20) + post(Site(server), 20, 3 * PIPE_BYTES)
            wait_until(lambda: len(consumer.lines) == len(ids))
        assert server.exit_code == 0
        assert sorted(whole_ids(consumer.lines)) == sorted(ids)
        assert len(consumer.lines) == len(ids)
        assert "segsrv listening on" in server.stderr
        assert "sinks       stdout (stdout:)" in server.stderr

    @pytest.mark.parametrize(
        "flags",
        [(), ("--delivery=process",), ("--workers=2",), ("--workers=2", "--delivery=thread")],
        ids=" ".join,
    )
    def test_head_gets_what_it_asks_for(self, tmp_path, pipe, flags):
        """In a shell's pipe, the first lines come out whole; the server ends when it may write no
        more, with a status and a line of its own, and keeps what is left.
        """
        head = subprocess.Popen(
            ["head", "-n", "3"], stdin=pipe.reader, stdout=subprocess.PIPE, text=True
        )
        pipe.close_reader()
        long_grace = "--shutdown-grace-s=60"
        with (
            head,
            ServerProcess(
                tmp_path / "data", *FLAGS, *flags, long_grace, stdout=pipe.writer
            ) as server,
        ):
            pipe.close_writer()
            ids = post(Site(server), 3)
            lines = head.communicate(timeout=30)[0].splitlines()
            assert sorted(id_of(json.loads(line)) for line in lines) == sorted(ids)
            (late,) = post(Site(server), 1)
            wait_until(lambda: server.exit_code is not None)
        assert server.exit_code == SinkClosed.exit_code == 4
        assert "segsrv: stdout: nobody reads it any more; the events that were" in server.stderr
        held = b"".join(path.read_bytes() for path in tmp_path.glob("data/journal/*/*.segment"))
        assert late.encode() in held

    def test_after_a_kill_every_event_comes_out(self, tmp_path, pipe):
        """A batch that a kill cut off comes again from its start, the cut line on its own."""
        with ServerProcess(tmp_path / "data", *FLAGS, stdout=pipe.writer) as server:
            ids = post(Site(server), 20, 1_000)
            wait_until(lambda: pipe.is_full)
            server.kill()
        consumer = pipe.read_in_background()
        with ServerProcess(tmp_path / "data", *FLAGS, stdout=pipe.writer) as server:
            pipe.close_writer()
            wait_until(lambda: set(ids) <= set(whole_ids(consumer.lines)))


def whole_ids(lines: list[bytes]) -> list[str]:
    """Return the ids of the lines that are whole, as a careful reader reads them."""
    found = []
    for line in lines:
        try:
            found.append(id_of(json.loads(line)))
        except ValueError:
            continue
    return found


class TestSlowReader:
    def test_nothing_else_waits_for_it(self, tmp_path, pipe):
        """While nobody reads, events are taken and stored in files, and a stop works."""
        flags = (*FLAGS, "--sink=file:")
        with ServerProcess(tmp_path / "data", *flags, stdout=pipe.writer) as server:
            site = Site(server)
            ids = post(site, 50, 1_000)
            site.stored(*ids)
            assert site.get("/ready").status == 200
            wait_until(lambda: pipe.is_full)
        assert server.exit_code == 0

    def test_a_reader_that_is_gone_is_a_dead_sink(self, tmp_path, pipe):
        """Beside another sink it stops nothing, also not for a new worker."""
        pipe.close_reader()
        flags = (*FLAGS, "--sink=file:", "--workers=2")
        with ServerProcess(tmp_path / "data", *flags, stdout=pipe.writer) as server:
            pipe.close_writer()
            site = Site(server)
            site.stored(*post(site, 10))
            wait_until(lambda: "nobody reads it any more" in server.stderr)
            killed = worker_pids(server)[0]
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: worker_pids(server)[0] != killed)
            site.stored(*post(site, 10))
        assert server.exit_code == 0


def test_a_closed_output(tmp_path):
    """`>&-` is refused at the start: the number of the output would be that of another file."""
    command = f"exec {sys.executable} -m segsrv serve --sink stdout: --data-dir {tmp_path}/d >&-"
    ended = subprocess.run(
        ["sh", "-c", command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == "segsrv: sink=stdout:: the standard output is closed\n"
    assert not (tmp_path / "d").exists()


def test_check_prints_as_ever(tmp_path):
    """`segsrv check` says what would run, and that goes to its standard output."""
    checked = segsrv("check", "--sink=stdout:", "--data-dir", str(tmp_path / "d"), cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "stdout (stdout:)" in checked.stdout
