"""The live page of a whole server."""

import contextlib
import http.client
import json
import os
import re
import signal

from tests.waiting import wait_until


def ops_netloc(site) -> str:
    return re.search(r"live page +http://(\S+)/live$", site.process.stdout, re.MULTILINE)[1]


def token_of(site) -> str:
    return (site.process.data_dir / "state" / "ops-token").read_text().strip()


def items(answer):
    while line := answer.readline():
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def test_it_tells_of_all_workers_and_sinks(start_server):
    """Whichever worker has the viewer; and the stream ends at once when the server stops."""
    site = start_server("--ops-listen=127.0.0.1:0", "--workers=2")
    connection = http.client.HTTPConnection(ops_netloc(site), timeout=30)
    with contextlib.closing(connection):
        connection.request(
            "GET",
            "/live/events?kinds=status",
            headers={"Authorization": f"Bearer {token_of(site)}"},
        )
        answer = connection.getresponse()
        assert answer.status == 200
        for item in items(answer):
            ready = [(worker["worker"], worker["ready"]) for worker in item["workers"]]
            if ready == [("w0", True), ("w1", True)] and item["sinks"]:
                break
        assert item["sinks"][0]["state"] == "ok"
        os.kill(site.process.pid, signal.SIGTERM)
        for _item in items(answer):
            pass
    wait_until(lambda: site.process.exit_code is not None)
    assert site.process.exit_code == 0


def test_nothing_of_it_is_on_the_public_port(start_server):
    """Clients find neither the page nor its sign-in, whether or not there is a listener for it."""
    site = start_server("--ops-listen=127.0.0.1:0")
    for path in ("/live", "/live.js", "/live/events", "/sign-in", "/ops.css"):
        assert site.get(path, Authorization=f"Bearer {token_of(site)}").status == 404
