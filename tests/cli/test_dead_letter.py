"""`segsrv dead-letter`, beside a running server and without one."""

import json
import subprocess
import sys
import time

import orjson
import pytest

from segsrv.cli import main
from segsrv.commands import sending
from segsrv.journal.dead_letters import DeadLetters
from segsrv.settings import sources
from segsrv.sinks import registry
from tests.command import segsrv
from tests.server_process import ServerProcess
from tests.site import Site
from tests.waiting import wait_until

SECRET = "hunter2"
INTERRUPTED = """
import asyncio, os, signal, sys
# Tests in the background of a shell get it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from segsrv.cli import main
from segsrv.sinks.file.sink import FileSink

batches = []
send = FileSink.send

async def interrupted(self, batch, placement):
    batches.append(batch)
    if len(batches) == 2:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
    await send(self, batch, placement)

FileSink.send = interrupted
sys.exit(main(["dead-letter", "replay", *sys.argv[1:]]))
"""
NOW_MS = 1_795_700_000_000


def refused(number, *, sink="file", at="2026-11-20T10:00:00.000Z", **fields) -> dict:
    letter = {"time": at, "reason": "sink_rejected", "message": "too odd", "sink": sink}
    letter |= {"key_id": "web", "format": "flat"} | fields
    return letter | {"item": {"number": number, "api_key": SECRET}}


def of_ingest(number, *, at="2026-11-21T10:00:00.000Z") -> dict:
    letter = {"time": at, "reason": "not_an_object", "message": "an item must be an object"}
    return letter | {"received_at": at, "api_key": SECRET, "item": number}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A data directory with a configuration file beside it, where the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sending, "RETRY_S_MIN", 0.0)
    (tmp_path / "data").mkdir()
    (tmp_path / "segsrv.toml").write_text(f'write_key = ["web:{SECRET}"]\n')
    return Place(tmp_path)


class Place:
    def __init__(self, root):
        self.root = root
        self.folder = root / "data" / "dead-letter"

    def write(self, *letters, prefix="w0", bytes_max=1 << 30):
        writer = DeadLetters(self.folder, prefix=prefix, bytes_max=bytes_max)
        for letter in letters:
            writer.append([orjson.dumps(letter) + b"\n"])

    def left(self) -> list[dict]:
        return [
            json.loads(line)
            for path in sorted(self.folder.glob("*.ndjson"))
            for line in path.read_bytes().splitlines()
        ]

    def delivered(self, folder="data/events") -> list[int]:
        return [
            json.loads(line)["number"]
            for path in sorted((self.root / folder).glob("**/*.ndjson"))
            for line in path.read_bytes().splitlines()
        ]


def run(*arguments) -> int:
    return main(["dead-letter", *arguments, "--config", "segsrv.toml"])


class TestList:
    def test_a_table_by_reason_sink_and_key(self, place, capsys):
        """Counts, and the times of the oldest and the newest."""
        place.write(refused(1), refused(2, at="2026-11-22T10:00:00Z"), prefix="file")
        place.write(of_ingest(3), of_ingest(4))
        assert run("list") == 0

        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert rows[0] == "REASON SINK KEY FORMAT LETTERS BYTES OLDEST NEWEST".split()
        ingest, sink = rows[1:]
        assert ingest[:5] == ["not_an_object", "-", "web", "-", "2"]
        assert sink[:5] == ["sink_rejected", "file", "web", "flat", "2"]
        assert sink[-2:] == ["2026-11-20T10:00:00Z", "2026-11-22T10:00:00Z"]

    def test_scripts_get_json(self, place, capsys):
        """One object a line."""
        place.write(refused(1))
        assert run("list", "--json") == 0

        (row,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert row == {
            "reason": "sink_rejected",
            "sink": "file",
            "key": "web",
            "format": "flat",
            "letters": 1,
            "bytes": len(orjson.dumps(refused(1))) + 1,
            "oldest": "2026-11-20T10:00:00Z",
            "newest": "2026-11-20T10:00:00Z",
        }

    def test_a_secret_is_never_in_a_table(self, place, capsys):
        """Not even of a key that is not configured any more."""
        place.write(of_ingest(1), refused(2))
        (place.root / "segsrv.toml").write_text('write_key = ["web:other"]\n')
        run("list")
        run("list", "--json")

        assert SECRET not in capsys.readouterr().out

    def test_letters_of_earlier_releases_count_with_their_sink(self, place, capsys):
        """They named the journal before the sink, and said neither time nor key."""
        old = {"reason": "sink_rejected", "message": "no", "sink": "w3-file-1a2b3c4d", "item": {}}
        place.write(old, prefix="w3-file-1a2b3c4d")
        run("list", "--json", "--sink", "file-1a2b3c4d")

        assert json.loads(capsys.readouterr().out)["sink"] == "file-1a2b3c4d"

    @pytest.mark.parametrize(
        ("flags", "count"),
        [
            (["--sink", "file"], 2),
            (["--sink", "other"], 0),
            (["--reason", "not_an_object"], 1),
            (["--since", "2026-11-21"], 2),
            (["--since", "2026-11-21T10:00:00Z"], 2),
            (["--until", "2026-11-21T10:00:00Z"], 1),
            (["--since", "2026-11-21T12:30:00+02:00", "--until", "2026-11-22"], 0),
            (["--since", "1h"], 0),
            (["--until", "1h", "--sink", "file"], 2),
        ],
    )
    def test_filters(self, place, capsys, monkeypatch, flags, count):
        """By sink, reason and time; from a time on, and before one."""
        monkeypatch.setattr(time, "time_ns", lambda: NOW_MS * 1_000_000)
        place.write(refused(1), of_ingest(2), refused(3, at="2026-11-25T10:00:00Z"))
        run("list", "--json", *flags)

        rows = map(json.loads, capsys.readouterr().out.splitlines())
        assert sum(row["letters"] for row in rows) == count

    def test_nothing_there_is_no_fault(self, place, capsys):
        """Before the first letter there is no folder."""
        assert run("list") == 0
        assert capsys.readouterr().out == "no dead letters\n"
        assert not place.folder.exists()


class TestShow:
    def test_letters_are_printed_as_they_are(self, place, capsysbinary):
        """NDJSON, byte for byte, to be mended and posted again."""
        place.write(refused(1), of_ingest(2), refused(3))
        assert run("show", "--sink", "file") == 0

        wanted = [orjson.dumps(refused(number)) for number in (1, 3)]
        assert capsysbinary.readouterr().out.splitlines() == wanted

    def test_a_limit(self, place, capsysbinary):
        """Only the first ones."""
        place.write(*map(refused, range(5)))
        run("show", "--limit", "2")

        assert len(capsysbinary.readouterr().out.splitlines()) == 2

    def test_pretty_is_harmless_to_a_terminal(self, place, capsys):
        """What clients sent can't move a cursor or set a title."""
        place.write(refused(1) | {"item": {"text": "a\x9b31mé\x1b]0;x\x07\u202e"}})
        run("show", "--pretty")

        printed = capsys.readouterr().out
        assert json.loads(printed)["item"]["text"] == "a\x9b31mé\x1b]0;x\x07\u202e"
        assert "é" in printed
        assert all(char.isprintable() or char == "\n" for char in printed)

    def test_a_reader_that_has_seen_enough(self, place):
        """`segsrv dead-letter show | head -n 1` leaves no traceback."""
        place.write(*map(refused, range(3_000)))
        ended = subprocess.run(
            f"{sys.executable} -m segsrv dead-letter show --data-dir data | head -n 1",
            shell=True,
            cwd=place.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert json.loads(ended.stdout) == refused(0)
        assert ended.stderr == ""


class TestPurge:
    def test_nothing_goes_without_yes(self, place, capsys):
        """It says what would go, and ends with 2."""
        place.write(refused(1), of_ingest(2))
        assert run("purge", "--sink", "file") == 2

        printed = capsys.readouterr()
        assert "would delete 1 letter (" in printed.err
        assert len(place.left()) == 2

    def test_only_what_is_selected_goes(self, place, capsys):
        """The others stay as they are."""
        place.write(refused(1), of_ingest(2), refused(3, sink="other"))
        assert run("purge", "--sink", "file", "--yes") == 0

        assert place.left() == [of_ingest(2), refused(3, sink="other")]
        assert capsys.readouterr().out.startswith("deleted 1 letter (")

    def test_beside_a_server_that_writes(self, tmp_path):
        """Letters that come before, between and after are each there until they are purged."""
        with ServerProcess(tmp_path / "data") as process:
            site = Site(process)
            for number in range(3):
                batch = {"batch": [number, {"type": "track", "userId": "u", "event": "e"}]}
                assert site.post(batch).status == 200
                (letter,) = site.dead_letters()
                assert letter["item"] == number
                ended = segsrv("dead-letter", "purge", "--yes", "--json", cwd=tmp_path)
                assert json.loads(ended.stdout)["deleted"] == 1, ended.stderr
                assert site.dead_letters() == []
            process.wait_for_events(3)
            assert site.post({"batch": [7]}).status == 200
        assert [letter["item"] for letter in site.dead_letters()] == [7]


class TestReplay:
    def test_the_sink_gets_what_it_refused(self, place, capsys):
        """Those that it takes are deleted."""
        place.write(refused(1), of_ingest(2), refused(3), refused(4, sink="gone"), prefix="file")
        assert run("replay") == 0

        printed = capsys.readouterr()
        assert place.delivered() == [1, 3]
        assert place.left() == [of_ingest(2), refused(4, sink="gone")]
        assert printed.out == "delivered 2 events and deleted the letters\n"
        assert "never were events: 1 letter;" in printed.err
        assert "of a sink that is not configured: 1 letter;" in printed.err

    def test_another_sink_can_have_them(self, place):
        """The letters of a sink that is gone are not lost."""
        (place.root / "segsrv.toml").write_text('sink = ["file:", "file:elsewhere"]\n')
        place.write(refused(1, sink="gone"), refused(2))
        other = next(name for name in names_of(place) if name != "file")
        assert run("replay", "--sink", "gone", "--to", other) == 0

        assert (place.delivered("elsewhere"), place.delivered()) == ([1], [])
        assert place.left() == [refused(2)]

    def test_many_files_and_batches(self, place):
        """Every letter is sent once, over files and batches, in their order."""
        (place.root / "segsrv.toml").write_text("flush_bytes_max = 65536\n")
        padding = "x" * 1_000
        letters = [refused(number, padding=padding) for number in range(300)]
        place.write(*letters, prefix="file", bytes_max=1 << 20)
        assert len(list(place.folder.iterdir())) > 3
        assert run("replay") == 0

        assert place.delivered() == list(range(300))
        assert place.left() == []

    def test_a_sink_that_is_down(self, place, capsys):
        """The letters stay, and the command ends with 3 and one line."""
        (place.root / "blocked").write_text("")
        (place.root / "segsrv.toml").write_text('sink = ["file:", "file:blocked"]\n')
        blocked = next(name for name in names_of(place) if name != "file")
        place.write(refused(1), prefix="a")
        place.write(refused(2, sink=blocked), prefix="b")
        assert run("replay") == 3

        printed = capsys.readouterr()
        assert printed.err.startswith(f"segsrv: sink {blocked}: ")
        assert "letters deleted: 1 event\n" in printed.err
        assert printed.err.count("\n") == 1
        assert place.left() == [refused(2, sink=blocked)]

    def test_an_interrupted_one(self, place):
        """After Ctrl-C only what was not taken is left, so nothing is sent twice."""
        (place.root / "segsrv.toml").write_text(
            '[[sinks]]\nname = "file"\nurl = "file:"\nbatch_events_max = 1\n'
        )
        place.write(*map(refused, range(3)))
        ended = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, "--config", "segsrv.toml"],
            cwd=place.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (130, "")
        assert place.delivered() == [0]
        assert place.left() == [refused(1), refused(2)]

    def test_beside_a_running_server(self, tmp_path):
        """The server's own events and those that come back are all there, once each."""
        with ServerProcess(tmp_path / "data") as process:
            site = Site(process)
            place = Place(tmp_path)
            assert site.post({"type": "track", "userId": "u", "event": "e"}).status == 200
            place.write(refused(1) | {"item": {"event": "back"}}, prefix="file")
            ended = segsrv("dead-letter", "replay", "--json", cwd=tmp_path)
            assert ended.returncode == 0, ended.stderr
            assert json.loads(ended.stdout)["delivered"] == 1
            assert site.post({"type": "track", "userId": "u", "event": "e"}).status == 200
            wait_until(lambda: len(process.events()) >= 3)
        assert len(process.events()) == 3
        assert [event for event in process.events() if event.get("event") == "back"]
        assert place.left() == []


def names_of(place) -> list[str]:
    settings = sources.load({"config": str(place.root / "segsrv.toml")}, {})
    return [named.name for named in registry.resolve(settings)]
