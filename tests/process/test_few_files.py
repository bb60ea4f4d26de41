"""Where few files may be open, clients get what the journal and the sinks leave, never more."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.http.fuzzing import Connection
from tests.server_process import REPOSITORY
from tests.site import FLAT, KEY, basic, new_id
from tests.waiting import wait_until

CLIENTS = 80
LISTENING = "0A"
LIMITED = (
    "import resource, runpy;"
    "resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}));"
    "runpy.run_module('segsrv', run_name='__main__')"
)
SMALL_SEGMENTS = "--journal-segment-bytes-max=65536"


def limited(files) -> tuple[str, str]:
    """Return the program that is segsrv with at most *files* open files."""
    return "-c", LIMITED.format(files=files)


def post_data(event_id) -> bytes:
    body = b'{"type":"track","event":"e","messageId":"%s","properties":{"pad":"%s"}}' % (
        event_id.encode(),
        b"x" * 30_000,
    )
    return (
        f"POST {FLAT} HTTP/1.1\r\nHost: h\r\nAuthorization: {basic(KEY)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def is_queue_empty(port) -> bool:
    """Say whether no connection waits to be accepted."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1].endswith(f":{port:04X}") and words[3] == LISTENING:
            return int(words[4].partition(":")[2], 16) == 0
    raise AssertionError("nobody listens")


@pytest.mark.parametrize("flags", [(), ("--ops-listen=127.0.0.1:0",)], ids=["alone", "with-ops"])
def test_idle_clients_leave_files_for_events(start_server, flags):
    """Events of those that are connected are stored, the rest are told that they are too many."""
    site = start_server(SMALL_SEGMENTS, *flags, program=limited(64))
    with contextlib.ExitStack() as stack:
        clients = []
        for _number in range(CLIENTS):
            client = Connection(site.address)
            stack.callback(client.close)
            clients.append(client)
            # The queue is short, and a client that finds no room in it tries again in a second.
            wait_until(lambda: is_queue_empty(site.address[1]))
        assert clients[-1].answer()[0] == 503
        # Many small segments are made, read and deleted, with cursors written all the time.
        ids = []
        for _time in range(10):
            for client in clients[:4]:
                ids.append(new_id())
                client.send(post_data(ids[-1]))
                assert client.answer()[0] == 200
        site.stored(*ids)
    assert "Too many open files" not in site.process.stderr
    assert "level=error" not in site.process.stderr
    assert re.search(r"connections_max=\d+", site.process.stderr)


def test_a_limit_too_small_to_run_is_said(tmp_path):
    """The start fails with one line that names the limit, and nothing is made."""
    ended = subprocess.run(
        [sys.executable, *limited(30), "serve", "--port=0", f"--data-dir={tmp_path / 'data'}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 3
    assert re.fullmatch(r"segsrv: 30 files may be open, at least \d+ are needed .*\n", ended.stderr)
    assert not (tmp_path / "data").exists()
