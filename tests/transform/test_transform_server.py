"""A server with functions in its events' way: from the request to the line that is stored."""

import contextlib
import json
import sys

import pytest

from tests.command import segsrv
from tests.server_process import MOUNTED, ServerProcess
from tests.site import Site, id_of, new_id
from tests.transform.hostile import HOSTILE, is_alive, module, newer
from tests.waiting import wait_until

ORDER = """
def said(word):
    def add(event, context):
        said = [*event.get("said", []), f"{word} {context.key_id} {context.sink} {context.type}"]
        return {**event, "said": said}
    return add

of_key, of_server, of_sink = said("key"), said("server"), said("sink")
"""
TWICE = """
[[keys]]
id = "web"
secret = "test-key"
transform = "%(module)s:of_key"

[[keys]]
id = "app"
secret = "other-key"

[[sinks]]
name = "files"
url = "file:%(directory)s/data/events"
types = ["track"]
transform = "%(module)s:of_sink"
"""


@contextlib.contextmanager
def serving(directory, *flags, **options):
    """Run a server that finds the modules in *directory*."""
    environ = {"PYTHONPATH": str(directory)}
    with ServerProcess(directory / "data", *flags, environ=environ, **options) as process:
        yield Site(process)


def track(**properties):
    event_id = new_id()
    return event_id, {
        "type": "track",
        "event": "e",
        "userId": "u",
        "messageId": event_id,
        "properties": properties,
    }


class TestStart:
    @pytest.mark.parametrize("command", ["serve", "check"])
    def test_a_function_that_is_not_there(self, tmp_path, command):
        """The start and `check` say in one line which setting names what can't be imported."""
        (tmp_path / "mine.py").write_text("def other(event, context):\n    return event\n")
        for name, why in (
            ("nothing.of_this:name", "can't be imported: ModuleNotFoundError"),
            ("mine:missing", "the module has no missing"),
        ):
            done = segsrv(command, "--transform", name, "--port", "0", cwd=tmp_path)
            assert done.returncode == 2
            assert done.stderr.startswith(f"segsrv: transform={name}: {why}")
            assert done.stderr.count("\n") == 1
        assert not (tmp_path / "data").exists()

    def test_a_name_of_another_shape(self, tmp_path):
        """What can't name a function is refused like any wrong setting."""
        done = segsrv("check", "--transform", "mine.py", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == "segsrv: transform=mine.py: expected package.module:function\n"

    def test_check_names_the_functions(self, tmp_path):
        """A module in the folder of the start is found, and `check` leaves nothing there."""
        (tmp_path / "mine.py").write_text("def own(event, context):\n    return event\n")
        done = segsrv("check", "--transform", "mine:own", "--port", "0", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "  transform   mine:own\n" in done.stdout
        assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_the_key_comes_first_and_the_sink_last(tmp_path):
    """Functions follow each other as documented, behind the filter of the sink."""
    name = module(tmp_path, ORDER)
    config = tmp_path / "segsrv.toml"
    config.write_text(TWICE % {"module": name, "directory": tmp_path})
    flags = ("--config", str(config), "--transform", f"{name}:of_server")
    with serving(tmp_path, *flags, write_keys=()) as site:
        first, event = track()
        assert site.post(event, key="test-key").status == 200
        second, event = track()
        assert site.post(event, key="other-key").status == 200
        assert site.post({"type": "page", "userId": "u"}, key="test-key").status == 200
        by_web, by_app = site.stored(first, second)
    assert by_web["said"] == [f"{word} web files track" for word in ("key", "server", "sink")]
    assert by_app["said"] == [f"{word} app files track" for word in ("server", "sink")]
    assert len(site.process.events()) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_hostile_functions_hurt_nobody_else(tmp_path, workers):
    """Loops, exits, leaks and nonsense cost their own events; the others arrive, each once."""
    name = module(tmp_path, HOSTILE)
    flags = ("--transform", f"{name}:act", "--transform-timeout-s", "1", "--workers", str(workers))
    memory = ("--transform-memory-bytes-max", str(128 << 20))
    bad = ("loop", "exit", "segfault", "set", "raise", "allocate")
    with serving(tmp_path, *flags, *memory) as site:
        expected, refused = [], []
        for what in (*bad, *["leak"] * 12):
            for do in (what, "print"):
                event_id, event = track(do=do)
                assert site.post(event).status == 200
                (refused if do in bad else expected).append(event_id)
        site.stored(*expected, timeout_s=60.0)
        wait_until(lambda: len(site.dead_letters()) >= len(bad))
        letters = site.dead_letters()
        count = "segsrv_sink_transform_set_aside_events_total"
        wait_until(lambda: site.metric(count) == len(bad))
    assert sorted(id_of(letter["item"]) for letter in letters) == sorted(refused)
    assert {letter["item"]["do"]: letter["reason"] for letter in letters} == {
        "loop": "transform_timeout",
        "exit": "transform_exited",
        "segfault": "transform_exited",
        "allocate": "transform_exited",
        "set": "transform_failed",
        "raise": "transform_failed",
    }
    assert len(site.process.events()) == len(expected)
    assert site.process.exit_code == 0


def test_prints_stay_out_of_the_standard_output(tmp_path):
    """With events on the standard output, what functions print is not between them."""
    name = module(tmp_path, HOSTILE)
    with serving(tmp_path, "--transform", f"{name}:act", "--sink", "stdout:") as site:
        for _event in range(5):
            assert site.post(track(do="print")[1]).status == 200
        wait_until(lambda: site.process.stdout.count("\n") >= 5)
    assert [json.loads(line)["do"] for line in site.process.stdout.splitlines()] == ["print"] * 5
    assert "xxx" in site.process.stderr


def test_a_new_file_takes_effect(tmp_path):
    """Events go through what the file says within seconds, and a broken one changes nothing."""
    text = "def act(event, context):\n    return {**event, 'version': %d}\n"
    name = module(tmp_path, "")
    path = tmp_path / f"{name}.py"
    newer(path, text % 1)

    def version(site) -> int:
        event_id, event = track()
        assert site.post(event).status == 200
        return site.stored(event_id)[0]["version"]

    with serving(tmp_path, "--transform", f"{name}:act") as site:
        assert version(site) == 1
        newer(path, "def act(event, context:\n")
        wait_until(lambda: version(site) == 1 and "not loaded again" in site.process.stderr)
        newer(path, text % 2)
        wait_until(lambda: version(site) == 2)
        assert site.metric("segsrv_sink_transform_reloads_total") == 1


def test_letters_are_replayed_through_the_mended_function(tmp_path):
    """What a function failed at is tried again by hand, and kept where it fails again."""
    name = module(tmp_path, "")
    path = tmp_path / f"{name}.py"
    newer(path, "def act(event, context):\n    return {**event, 'half': event['n'] / 0}\n")
    flags = ("--transform", f"{name}:act")
    with serving(tmp_path, *flags) as site:
        for n in (1, "two", 3, 4):
            assert site.post(track(n=n)[1]).status == 200
        wait_until(lambda: len(site.dead_letters()) == 4)
    newer(
        path,
        "def act(event, context):\n"
        "    if event['n'] == 4:\n        return None\n"
        "    return [{**event, 'half': event['n'] / 2}] * 2\n",
    )
    done = segsrv("dead-letter", "replay", cwd=tmp_path, SEGSRV_TRANSFORM=flags[1])
    assert done.returncode == 1, done.stderr
    assert "unsupported operand" in done.stderr
    assert [letter["item"]["n"] for letter in site.dead_letters()] == ["two"]
    assert [event["half"] for event in site.process.events()] == [0.5, 0.5, 1.5, 1.5]


def test_a_journal_is_replayed_through_functions(tmp_path):
    """Events that are sent again by hand are transformed as they were."""
    name = module(tmp_path, "def act(event, context):\n    return {'n': event['n'] * 2}\n")
    flags = ("--transform", f"{name}:act", "--journal-retention-s", "3600")
    with serving(tmp_path, *flags) as site:
        for n in (1, 2, "x", []):
            assert site.post(track(n=n)[1]).status == 200
        wait_until(lambda: len(site.process.events()) == 4)
    replay = ("journal", "replay", "--sink", "file", "--since", "1h")
    done = segsrv(*replay, cwd=tmp_path, SEGSRV_TRANSFORM=flags[1])
    assert done.returncode == 0, done.stderr
    assert [event["n"] for event in site.process.events()] == [2, 4, "xx", []] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_process_ends_with_a_server_that_is_killed(tmp_path):
    """No process is left of a server that ends without a word."""
    name = module(
        tmp_path, "import os\ndef act(event, context):\n    return {'pid': os.getpid()}\n"
    )
    with serving(tmp_path, "--transform", f"{name}:act") as site:
        assert site.post(track()[1]).status == 200
        (event,) = site.process.wait_for_events(1)
        assert is_alive(event["pid"])
        site.process.kill()
    wait_until(lambda: not is_alive(event["pid"]))


def test_an_application_of_ones_own(tmp_path):
    """Mounted, events go through the function too, and wait while it can't be loaded."""
    name = module(tmp_path, "import nothing_of_this_name\n")
    flags = ("--transform", f"{name}:act", "--sink-retry-s-max", "0.1")
    with serving(tmp_path, *flags, program=MOUNTED) as site:
        event_id, event = track()
        assert site.post(event).status == 200
        wait_until(lambda: site.metric("segsrv_sink_retries_total") > 0)
        assert site.process.events() == []
        text = "def act(event, context):\n    return {**event, 'sink': context.sink}\n"
        newer(tmp_path / f"{name}.py", text)
        assert site.stored(event_id)[0]["sink"] == "file"
