"""Keys change while the server runs: in all its processes, and nothing is lost by it."""

import http.client
import os
import signal

import pytest

from tests.server_process import ServerProcess
from tests.site import Site, new_id
from tests.waiting import wait_until

WAYS = (("--workers=1",), ("--workers=2",), ("--workers=1", "--front=aiohttp"))
QUICK = ("--flush-interval-s=0.01",)


def write(path, text):
    """Replace a file as a whole."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def key(key_id, secret, more=""):
    return f'[[keys]]\nid = "{key_id}"\nsecret = "{secret}"\n{more}\n'


@pytest.fixture(params=WAYS, ids=" ".join)
def server(request, tmp_path):
    config = tmp_path / "segsrv.toml"
    config.write_text(key("web", "one"))
    flags = ("--config", str(config), *QUICK, *request.param)
    with ServerProcess(tmp_path / "data", *flags, write_keys=()) as process:
        process.config = config
        yield process


def answers(site, secret, tries=8):
    """Return the statuses that several connections get, of whatever workers."""
    event = {"type": "track", "event": "e"}
    return {site.post(event, key=secret).status for _ in range(tries)}


class TestReload:
    def test_what_is_new_in_the_file_holds(self, server):
        """A new key opens, one that was disabled or taken out does not, and no restart is made."""
        site = Site(server)
        assert (answers(site, "one"), answers(site, "two")) == ({200}, {401})
        write(server.config, key("web", "one", "disabled = true") + key("app", "two"))
        wait_until(lambda: answers(site, "two") == {200} and answers(site, "one") == {401})
        write(server.config, key("web", "one"))
        wait_until(lambda: answers(site, "one") == {200} and answers(site, "two") == {401})
        assert server.stderr.count("keys have changed") == 2

    def test_a_signal_is_obeyed_by_all_processes(self, server):
        """SIGHUP to the server is enough, and it ends nobody."""
        site = Site(server)
        write(server.config, key("web", "two"))
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: answers(site, "two") == {200} and answers(site, "one") == {401})
        assert server.exit_code is None
        assert "process ended" not in server.stderr

    def test_a_wrong_file_changes_nothing(self, server):
        """It is said once, without a secret, and a right one is taken later."""
        site = Site(server)
        write(server.config, key("web", "one") + key("app", "se cret"))
        wait_until(lambda: "keys stay as they are" in server.stderr)
        os.kill(server.pid, signal.SIGHUP)
        write(server.config, key("web", "one") + key("app", "two", 'sinks = ["nowhere"]'))
        wait_until(lambda: "no sink has this name" in server.stderr)
        assert answers(site, "one") == {200}
        write(server.config, key("web", "one") + key("app", "two"))
        wait_until(lambda: answers(site, "two") == {200})
        assert server.stderr.count("expected at most 512") == 1
        assert "se cret" not in server.stderr

    def test_other_settings_wait_for_a_restart(self, server):
        """That is said by their names, and the keys beside them change all the same."""
        site = Site(server)
        write(server.config, "retry_after_s = 9\n" + key("web", "two"))
        wait_until(lambda: answers(site, "two") == {200})
        assert server.stderr.count("retry_after_s has changed, which needs a restart") == 1

    def test_the_sinks_of_a_key_change_with_it(self, tmp_path):
        """Its events go where the keys of that time say."""
        config = tmp_path / "segsrv.toml"
        sinks = "".join(
            f'[[sinks]]\nname = "{name}"\nurl = "file:{tmp_path / name}"\n' for name in "ab"
        )
        config.write_text(key("web", "one", 'sinks = ["a"]') + sinks)
        flags = ("--config", str(config), "--workers=2", *QUICK)

        def has(name, event_id):
            return any(event_id in path.read_text() for path in (tmp_path / name).glob("**/*.nd*"))

        def send():
            event_id = new_id()
            site.post({"type": "track", "event": "e", "messageId": event_id}, key="one")
            return event_id

        with ServerProcess(tmp_path / "data", *flags, write_keys=()) as process:
            site = Site(process)
            first = send()
            wait_until(lambda: has("a", first))
            write(config, key("web", "one", 'sinks = ["b"]') + sinks)
            sent = [first]

            def some_is_in_b():
                sent.append(send())
                return any(has("b", event_id) for event_id in sent)

            wait_until(some_is_in_b)
            last = send()
            wait_until(lambda: has("b", last))
            assert not has("b", first)
            assert not has("a", last)

    def test_connections_stay_and_forget_the_old_key(self, server):
        """A client that stays connected is answered by the new keys on the same connection."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

        def status():
            connection.request("POST", "/v1/track", b'{"event":"e"}', {"X-Write-Key": "one"})
            response = connection.getresponse()
            response.read()
            return response.status

        assert status() == 200
        sock = connection.sock
        write(server.config, key("web", "two"))
        wait_until(lambda: status() == 401)
        assert connection.sock is sock
        connection.close()
