"""`segsrv key`: what it says and writes, and that a running server takes it."""

import json
import re
import stat

import pytest

from tests.command import segsrv
from tests.server_process import ServerProcess
from tests.site import Site
from tests.waiting import wait_until

EVENT = {"type": "track", "event": "e"}


@pytest.fixture
def run(tmp_path):
    def run(*arguments, status=0):
        done = segsrv("key", *arguments, "--data-dir=data", cwd=tmp_path)
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    return run


def secret_in(text):
    return re.search(r"curl -u '(.+):'", text)[1]


class TestFile:
    def test_a_key_is_kept_as_it_was_asked_for(self, run, tmp_path):
        """With all that was said of it, in a file that only the server's user reads."""
        limits = ("--rate=5", "--burst=9", "--type=track", "--format=flat", "--sink=file")
        secret = secret_in(run("add", "web", "--origin=https://a.example", *limits))
        path = tmp_path / "data" / "state" / "keys.toml"
        assert secret in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(run("list", "--json")) == {
            "id": "web",
            "origins": ["https://a.example"],
            "formats": ["flat"],
            "types": ["track"],
            "rate_events_per_s": 5.0,
            "burst_events": 9,
            "sinks": ["file"],
            "secrets": 1,
            "is_added": True,
        }
        assert secret not in run("list")

    def test_what_no_server_would_take_is_not_written(self, run, tmp_path):
        """An unknown sink, a wrong type, an id that is there, one of the settings, or none."""
        run("add", "web")
        path = tmp_path / "data" / "state" / "keys.toml"
        before = path.read_bytes()
        (tmp_path / "c.toml").write_text('[[keys]]\nid = "own"\nsecret = "s"\n')
        for line, arguments in {
            "no sink has this name": ("add", "b", "--sink=nowhere"),
            "keys.b.types": ("add", "b", "--type=click"),
            "there is such a key": ("add", "web"),
            "is a key of the settings": ("disable", "own", "--config=c.toml"),
            "no key with this id": ("enable", "b"),
        }.items():
            assert line in run(*arguments, status=2)
        assert path.read_bytes() == before

    def test_secrets_are_rotated(self, run, tmp_path):
        """The new one comes first, and the old ones stay until they are dropped."""
        path = tmp_path / "data" / "state" / "keys.toml"
        first = secret_in(run("add", "web"))
        second = secret_in(run("rotate", "web"))
        assert f'["{second}", "{first}"]' in path.read_text()
        third = secret_in(run("rotate", "web", "--drop-old"))
        assert f'["{third}"]' in path.read_text()


def test_a_running_server_takes_what_the_command_says(run, tmp_path):
    """A server that has only such keys starts with them, and follows each change."""
    first = secret_in(run("add", "web"))
    with ServerProcess(tmp_path / "data", write_keys=()) as process:
        assert "write key was made" not in process.stdout
        site = Site(process)

        def status(secret):
            return site.post(EVENT, key=secret).status

        assert status(first) == 200
        second = secret_in(run("rotate", "web"))
        wait_until(lambda: status(second) == 200)
        assert status(first) == 200
        run("disable", "web")
        wait_until(lambda: status(second) == 401)
        run("enable", "web")
        wait_until(lambda: status(first) == 200)
        other = secret_in(run("add", "app", "--rate=0.01"))
        wait_until(lambda: status(other) == 200)
        assert status(other) == 429
