"""`segsrv tail` and `segsrv status`: what arrives and what does not, beside a running server."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.command import segsrv
from tests.site import FLAT, KEY, RAW, new_id, started_site
from tests.waiting import wait_until


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "two workers"])
def site(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    keys = ("web:" + KEY, "app:other-key")
    with started_site(folder / "data", f"--workers={request.param}", write_keys=keys) as site:
        yield site


# Where the tests run in the background of a shell, it has SIGINT ignored.
PROGRAM = """import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from segsrv.cli import main
sys.exit(main())
"""
COMMAND = (sys.executable, "-u", "-c", PROGRAM, "tail")


class Tail:
    """Runs `segsrv tail` for the length of a `with` block; `items` are what it has printed."""

    def __init__(self, site, folder, *flags):
        self._path = folder / "tail"
        self._command = [*COMMAND, *flags, "--data-dir", str(site.process.data_dir)]
        self.status = None

    def __enter__(self):
        with self._path.open("wb") as file:
            self._process = subprocess.Popen(self._command, stdout=file, stderr=file)
        return self

    def __exit__(self, *_error):
        self._process.send_signal(signal.SIGINT)
        self.status = self._process.wait(20)

    @property
    def text(self):
        return self._path.read_text("utf-8")

    def items(self):
        return [json.loads(line) for line in self.text.splitlines() if line.endswith("}")]

    def ids(self):
        return [item["id"] for item in self.items() if item["kind"] == "event"]


def post(site, path=FLAT, key=KEY, **event):
    event_id = new_id()
    assert site.post({"type": "track", "messageId": event_id, **event}, path=path, key=key).status
    return event_id


class TestTail:
    def test_events_as_they_are_stored(self, site, tmp_path):
        """The last ones first, then each once, with its key's id and no secret."""
        before = post(site, event="Before")
        with Tail(site, tmp_path, "--json") as tail:
            wait_until(lambda: before in tail.ids())
            sent = [post(site, path, event="Now", key=key) for path in (FLAT, RAW) for key in KEYS]
            wait_until(lambda: set(sent) <= set(tail.ids()))
        assert tail.status == 130
        assert len(tail.ids()) == len(set(tail.ids()))
        by_id = {item["id"]: item for item in tail.items() if item["kind"] == "event"}
        shown = [by_id[event_id] for event_id in sent]
        assert [(item["key"], item["format"], item["type"]) for item in shown] == [
            ("web", "flat", "track"),
            ("app", "flat", "track"),
            ("web", "segment", "track"),
            ("app", "segment", "track"),
        ]
        assert all(item["event"]["event"] == "Now" for item in shown)
        assert KEY not in tail.text
        assert "[key web]" in tail.text

    def test_what_is_refused_and_set_aside(self, site, tmp_path):
        """With why, and how the body begins; a key's secret in it is not shown."""
        with Tail(site, tmp_path, "--json", "--refused") as tail:
            site.post(b'{"batch":[' + KEY.encode(), path=FLAT)
            site.post({"batch": [7, {"type": "track"}]}, path=FLAT)
            site.post({"type": "track"}, key="nobody's")
            wait_until(lambda: {"letter", "refused"} <= {item["kind"] for item in tail.items()})
            wait_until(lambda: {400, 401} <= {item.get("status") for item in tail.items()})
        broken, unknown = (
            next(item for item in reversed(tail.items()) if item.get("status") == status)
            for status in (400, 401)
        )
        assert (broken["code"], broken["key"]) == ("invalid_json", "web")
        assert broken["excerpt"] == '{"batch":[[key web]'
        assert unknown["message"] == "the write key is not known here"
        letter = next(item for item in reversed(tail.items()) if item["kind"] == "letter")
        assert (letter["reason"], letter["excerpt"]) == ("not_an_object", "7")

    @pytest.mark.parametrize(
        ("flags", "is_wanted"),
        [
            (("--key=app",), {"app": True, "web": False}),
            (("--event=Chosen",), {"app": False, "web": True}),
            (("--type=page",), {"app": False, "web": False}),
        ],
    )
    def test_a_choice(self, site, tmp_path, flags, is_wanted):
        """Only events of the key, type or name that was asked for are shown."""
        with Tail(site, tmp_path, "--json", *flags) as tail:
            of_app = post(site, key="other-key", event="Other")
            of_web = post(site, event="Chosen")
            page = post(site, type="page", key="other-key", event="Chosen")
            wait_until(lambda: page in tail.ids())
        assert (of_app in tail.ids(), of_web in tail.ids()) == tuple(is_wanted.values())

    def test_a_line_for_people(self, site, tmp_path):
        """Each is one line, and nothing that a client sent moves the terminal's cursor."""
        with Tail(site, tmp_path) as tail:
            event_id = post(site, event="a\x1b[2J\nb", userId="u-1")
            wait_until(lambda: event_id in tail.text)
        (line,) = (line for line in tail.text.splitlines() if event_id in line)
        assert f"web  track  a\\u001b[2J b  {event_id}  user=u-1" in line
        assert "\x1b" not in tail.text

    def test_a_reader_that_goes(self, site):
        """It ends in silence when nobody reads it any more."""
        read, write = os.pipe()
        post(site)
        with started("--data-dir", str(site.process.data_dir), stdout=write) as process:
            os.close(write)
            os.read(read, 1)
            os.close(read)
            post(site)
            assert process.wait(20) == 0
            assert process.stderr.read() == b""

    def test_without_a_server(self, tmp_path):
        """It says that none runs, and waits for one."""
        (tmp_path / "data").mkdir()
        with started("--data-dir", str(tmp_path / "data")) as process:
            assert process.stderr.readline() == b"segsrv: no server runs on this data directory\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130


def started(*flags, **options):
    return subprocess.Popen([*COMMAND, *flags], stderr=subprocess.PIPE, **options)


KEYS = (KEY, "other-key")


class TestStatus:
    def status(self, site, *flags):
        return segsrv("status", "--data-dir", str(site.process.data_dir), *flags, cwd="/")

    def test_a_server_that_takes_events(self, site):
        """Workers, sinks, keys, types and answers, for scripts and for people."""
        for key in KEYS:
            post(site, key=key)
        site.post({"type": "track"}, key="nobody's")

        def said():
            done = self.status(site, "--json")
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        def is_whole(found):
            counted = {row["key"] for row in found["keys"]} >= {"web", "app"}
            return counted and any(one["status"] == 401 for one in found["refused"])

        wait_until(lambda: is_whole(said()), deadline_s=30)
        found = said()
        assert all(worker["ready"] for worker in found["workers"])
        assert {sink["name"] for sink in found["sinks"]} == {"file"}
        assert {row["answer"] for row in found["answers"]} >= {"ok", "unauthorized"}
        assert {row["type"] for row in found["types"]} >= {"track"}
        text = self.status(site).stdout
        assert "WORKER" in text
        assert "unauthorized" in text
        assert KEY not in text

    def test_without_a_server(self, tmp_path):
        """It ends with 1 and says why."""
        (tmp_path / "data").mkdir()
        done = segsrv("status", "--data-dir", "data", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "no server runs on this data directory\n")
