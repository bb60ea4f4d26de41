"""The corpus of the mapping over HTTP: each request's stored lines are those of the oracle."""

import contextlib
import http.client
import json
import urllib.parse
from pathlib import Path

import pytest

from tests.events.corpus import DATABASES, Post, corpus
from tests.events.oracle import comparable, expected_lines
from tests.mmdb import write_mmdb
from tests.server_process import MOUNTED, ServerProcess
from tests.site import KEY, basic


def send(connection: http.client.HTTPConnection, url: str, post: Post) -> int:
    """Send the request as it stands, the header with bytes of any kind; return the status."""
    body = json.dumps(post.body).encode()
    connection.putrequest("POST", f"{url}?{post.query}", skip_accept_encoding=True)
    connection.putheader("Authorization", basic(KEY))
    connection.putheader("X-Forwarded-For", post.forwarded_for)
    connection.putheader("User-Agent", post.user_agent)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    response.read()
    return response.status


@pytest.mark.parametrize("program", [("-m", "segsrv"), MOUNTED], ids=["server", "mounted"])
def test_every_line_is_the_expected_one(tmp_path: Path, program: tuple[str, ...]) -> None:
    """Every request of the corpus is answered 200, and stored as the rules say, in its order."""
    posts = list(corpus())
    flags = ["--durability", "write"]
    for name, networks in DATABASES.items():
        flags += ["--geoip-db", str(write_mmdb(tmp_path / f"{name}.mmdb", networks, name))]
    with ServerProcess(tmp_path / "data", *flags, write_keys=[KEY], program=program) as server:
        split = urllib.parse.urlsplit(server.url)
        connection = http.client.HTTPConnection(split.hostname, split.port, timeout=30)
        with contextlib.closing(connection):
            statuses = {post.name: send(connection, split.path + post.path, post) for post in posts}
        assert set(statuses.values()) == {200}, statuses
        expected = [(post.name, event) for post in posts for event in expected_lines(post, KEY)]
        server.wait_for_events(len(expected))
        assert server.stop() == 0, server.stderr
        stored = server.events()

    assert len(stored) == len(expected)
    for event, (name, wanted) in zip(stored, expected, strict=True):
        assert comparable(event) == comparable(wanted), name
