"""What a sink has got when its settings change: it goes on, or it is a new one."""

import json
from pathlib import Path

from tests.server_process import ServerProcess
from tests.site import Site
from tests.waiting import wait_until


def lines(folder: Path) -> list[str]:
    """Return the names of the events in *folder*, sorted."""
    files = [path.read_bytes() for path in folder.glob("**/*.ndjson")]
    # A last line without its newline is still being written.
    found = [line for data in files for line in data.split(b"\n")[:-1]]
    return sorted(json.loads(line)["event"] for line in found)


def serve(tmp_path: Path, text: str, event: str, *folders: Path) -> None:
    """Run a server with the settings *text* until *event* is in all *folders*."""
    config = tmp_path / "segsrv.toml"
    # What is delivered stays in the journal, for whoever asks for it again.
    config.write_text(f"journal_retention_s = 3_600\nflush_interval_s = 0.01\n{text}")
    with ServerProcess(tmp_path / "data", "--config", str(config)) as server:
        answer = Site(server).post({"type": "track", "event": event, "userId": "u"})
        assert answer.status == 200
        wait_until(lambda: all(event in lines(folder) for folder in folders))


def table(name: str, folder: Path) -> str:
    return f'[[sinks]]\nname = "{name}"\nurl = "file:{folder}"\n'


def test_from_the_short_form_to_a_table_nothing_comes_twice(tmp_path):
    """The table has the name that the short form had, and says more of the same sink."""
    events = tmp_path / "data" / "events"
    serve(tmp_path, "", "one", events)
    serve(tmp_path, '[[sinks]]\nname = "file"\nurl = "file:"\nretry_s_max = 5\n', "two", events)

    assert lines(events) == ["one", "two"]


def test_a_name_that_is_given_to_another_place_begins_anew(tmp_path):
    """The new place gets what the journal holds; back at the old one, the sink goes on there."""
    old, new = tmp_path / "old", tmp_path / "new"
    serve(tmp_path, table("archive", old), "one", old)
    serve(tmp_path, table("archive", new), "two", new)
    assert lines(new) == ["one", "two"]
    serve(tmp_path, table("archive", old), "three", old)

    assert lines(old) == ["one", "three", "two"]
    assert lines(new) == ["one", "two"]
