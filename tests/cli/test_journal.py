"""`segsrv journal`, beside a running server and without one."""

import contextlib
import errno
import io
import json
import os
import re
import subprocess
import sys
import termios

import pytest

from segsrv.cli import main
from segsrv.commands import sending
from segsrv.commands.output import Bar
from segsrv.delivery.set_aside import parts_of
from segsrv.errors import SinkRejected
from segsrv.sinks.file import sink as file
from segsrv.sinks.file.sink import FileSink
from tests.journal.segment_logs import flip
from tests.server_process import ServerProcess
from tests.site import Site
from tests.waiting import wait_until

KEPT = ("--journal-retention-s", "3600")


@pytest.fixture(autouse=True)
def _in_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sending, "RETRY_S_MIN", 0.0)


def server(tmp_path, *flags, keys=("web:test-key", "app:other-key")) -> ServerProcess:
    return ServerProcess(tmp_path / "data", *flags, write_keys=keys)


def post(process, count, *, kind="track", key="test-key", first=0) -> None:
    batch = [
        {"type": kind, "userId": "u", "event": "e", "properties": {"number": number}}
        for number in range(first, first + count)
    ]
    assert Site(process).post({"batch": batch}, key=key).status == 200


def report(capsys, *flags) -> dict:
    capsys.readouterr()
    assert main(["journal", "inspect", "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def segments(tmp_path) -> list:
    return sorted((tmp_path / "data" / "journal").glob("w*/*.segment"))


def listing(root) -> dict:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")}


def all_of(leader) -> str:
    """Return all that was written to the terminal of *leader*, which nobody writes to any more."""
    pieces = []
    with contextlib.suppress(OSError):
        while piece := os.read(leader, 65_536):
            pieces.append(piece)
    return b"".join(pieces).decode()


class TestInspect:
    def test_events_by_key_format_and_type(self, tmp_path, capsys):
        """Counted from the facts, for all workers, while the server runs."""
        with server(tmp_path, *KEPT, "--workers", "2") as process:
            post(process, 3)
            post(process, 2, kind="page")
            post(process, 4, key="other-key")
            process.wait_for_events(9)
            found = report(capsys, "--events")

        assert {
            (row["key"], row["format"], row["type"]): row["events"] for row in found["events"]
        } == {
            ("web", "flat", "track"): 3,
            ("web", "flat", "page"): 2,
            ("app", "flat", "track"): 4,
        }
        assert [row["journal"] for row in found["journals"]] == ["w0", "w1"]
        assert all(len(row["id"]) == 32 for row in found["journals"])

    @pytest.mark.parametrize(
        ("flags", "events"),
        [
            (["--key-id", "web"], 5),
            (["--type", "page", "--type", "screen"], 2),
            (["--key-id", "app", "--type", "page"], 0),
            (["--since", "1h"], 9),
            (["--until", "1h"], 0),
        ],
    )
    def test_filters(self, tmp_path, capsys, flags, events):
        """By key, type and time; they count events without being asked to."""
        with server(tmp_path, *KEPT) as process:
            post(process, 3)
            post(process, 2, kind="page")
            post(process, 4, key="other-key")
            process.wait_for_events(9)

        assert sum(row["events"] for row in report(capsys, *flags)["events"]) == events

    def test_how_far_a_sink_is_behind(self, tmp_path, capsys):
        """In events, bytes and seconds; nothing where all is delivered."""
        (tmp_path / "blocked").write_text("")
        (tmp_path / "segsrv.toml").write_text(
            '[[sinks]]\nname = "live"\nurl = "file:live"\n'
            '[[sinks]]\nname = "dead"\nurl = "file:blocked"\n'.replace(
                '"file:', f'"file:{tmp_path}/'
            )
        )
        flags = ("--config", str(tmp_path / "segsrv.toml"))
        with server(tmp_path, *flags, "--shutdown-grace-s", "0") as process:
            post(process, 5)

            def behind() -> dict:
                return {row["sink"]: row for row in report(capsys, *flags)["sinks"]}

            wait_until(lambda: behind()["live"]["behind_events"] == 0)
            rows = behind()
        assert rows["dead"]["behind_events"] == 5
        assert rows["dead"]["behind_bytes"] > rows["live"]["behind_bytes"] == 0
        assert rows["dead"]["behind_s"] >= 0
        assert behind()["dead"]["behind_events"] == 5

    def test_tables_for_people(self, tmp_path, capsys):
        """One for the journals, one for the sinks, one for the files."""
        with server(tmp_path, *KEPT) as process:
            post(process, 3)
            process.wait_for_events(3)
        assert main(["journal", "inspect", "--segments", "--events"]) == 0

        printed = capsys.readouterr().out
        for header in ("JOURNAL  ID", "SINK  JOURNAL", "JOURNAL  SEGMENT", "KEY  FORMAT"):
            assert header in printed
        assert "test-key" not in printed

    def test_nothing_changes(self, tmp_path, capsys):
        """No command that looks writes a byte, or makes a folder."""
        with server(tmp_path, *KEPT) as process:
            post(process, 3)
            process.wait_for_events(3)
        before = listing(tmp_path)
        report(capsys, "--events", "--segments")
        assert main(["journal", "verify"]) == 0
        assert main(["dead-letter", "list"]) == 0

        assert listing(tmp_path) == before

    def test_before_the_first_start(self, tmp_path, capsys):
        """An empty data directory has no journals."""
        (tmp_path / "data").mkdir()
        assert main(["journal", "inspect"]) == 0
        assert capsys.readouterr().out == "no journals\n"
        assert main(["journal", "verify"]) == 0


class TestVerify:
    def test_a_sound_journal(self, tmp_path, capsys):
        """One line a journal, and 0, also beside the server that writes it."""
        with server(tmp_path, *KEPT) as process:
            post(process, 3)
            process.wait_for_events(3)
            assert main(["journal", "verify"]) == 0
        assert capsys.readouterr().out.startswith("w0: 1 segment, 3 events, ")

    def test_a_damaged_one(self, tmp_path, capsys):
        """A line for each piece, and 1."""
        with server(tmp_path, *KEPT) as process:
            post(process, 3)
            process.wait_for_events(3)
        (path,) = segments(tmp_path)
        flip(path, path.stat().st_size // 2)
        assert main(["journal", "verify"]) == 1

        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"w0: {path.name}: damaged from position 64 on, ")
        assert lines[1].endswith("1 fault")

    def test_a_damaged_cursor(self, tmp_path, capsys):
        """What delivery would find at the next start is said before."""
        with server(tmp_path) as process:
            post(process, 3)
            process.wait_for_events(3)
        path = tmp_path / "data" / "state" / "sinks" / "file.cursor"
        flip(path, 20)
        assert main(["journal", "verify", "--json"]) == 1

        first = json.loads(capsys.readouterr().out.splitlines()[0])
        assert first["fault"].startswith("state/sinks/file.cursor: damaged")


class TestReplay:
    def replay(self, *flags) -> int:
        return main(["journal", "replay", *flags])

    def test_what_was_delivered_is_sent_again(self, tmp_path, capsys):
        """Only what is selected, beside the running server."""
        with server(tmp_path, *KEPT) as process:
            post(process, 3)
            post(process, 2, kind="page")
            post(process, 4, key="other-key")
            process.wait_for_events(9)
            cursor = tmp_path / "data" / "state" / "sinks" / "file.cursor"
            wait_until(lambda: report(capsys)["sinks"][0]["behind_events"] == 0)
            before = cursor.read_bytes(), listing(tmp_path / "data" / "journal")
            flags = ("--since", "1h", "--key-id", "web", "--type", "track")
            assert self.replay("--sink", "file", *flags) == 0
            assert capsys.readouterr().out == "delivered 3 events\n"
            after = cursor.read_bytes(), listing(tmp_path / "data" / "journal")
            assert after[1] == before[1]
            post(process, 1)
            process.wait_for_events(13)
        stored = process.events()
        assert len(stored) == 13
        ids = [event["eventn_ctx_event_id"] for event in stored]
        assert len(ids) - len(set(ids)) == 3

    def test_a_terminal_shows_how_far_it_is(self, tmp_path, monkeypatch):
        """Bytes of what is replayed, to the end, with the events and how many a second."""
        with server(tmp_path, *KEPT) as process:
            post(process, 3)
            post(process, 20)
            process.wait_for_events(23)
        leader, follower = os.openpty()
        termios.tcsetwinsize(follower, (24, 100))
        try:
            with os.fdopen(follower, "w", encoding="utf-8") as terminal:
                monkeypatch.setattr(sys, "stderr", terminal)
                assert self.replay("--sink", "file", "--since", "1h") == 0
                monkeypatch.undo()
            drawn = all_of(leader)
        finally:
            os.close(leader)
        last = drawn.strip().split("\r")[-1]
        assert "replay: 100%" in last
        assert re.search(r"23 events, [\d,]+/s\]", last)

    def test_a_terminal_is_not_drawn_for_each_frame(self, monkeypatch):
        """Drawing takes longer than what is drawn, over a slow line most of all."""
        terminal = io.StringIO()
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stderr", terminal)
        with Bar("replay", 10_000) as bar:
            for frame in range(10_000):
                bar.add(1)
                bar.tell(frame)
        drawn = terminal.getvalue().split("\r")
        assert "9999 events" in drawn[-1]
        assert len(drawn) < 1_000

    def test_the_lines_are_the_same(self, tmp_path):
        """Byte for byte what was delivered before."""
        with server(tmp_path, *KEPT) as process:
            post(process, 50)
            process.wait_for_events(50)
        assert self.replay("--sink", "file", "--since", "1h") == 0

        files = sorted((tmp_path / "data" / "events").rglob("*.ndjson"))
        assert len(files) == 2
        assert files[0].read_bytes() == files[1].read_bytes()

    def test_the_file_of_a_replay_is_complete(self, tmp_path):
        """Nobody goes on with it, so it is closed; that of the running server stays open."""
        with server(tmp_path, *KEPT) as process:
            post(process, 3)
            process.wait_for_events(3)
            events = tmp_path / "data" / "events"

            def is_replayed() -> bool:
                # The cursor says so up to a second later than the files.
                assert self.replay("--sink", "file", "--since", "1h") == 0
                return len(list(events.rglob("*.ndjson"))) > 1

            wait_until(is_replayed)
            first, second = sorted((tmp_path / "data" / "events").rglob("*.ndjson"))
            assert first.stat().st_mode & 0o222
            assert not second.stat().st_mode & 0o222

    def test_the_file_of_a_replay_that_failed_has_whole_lines(self, tmp_path, monkeypatch):
        """A batch that the disk took in part is cut off before the file is closed."""
        with server(tmp_path, *KEPT) as process:
            post(process, 3)
            process.wait_for_events(3)
        write, cut = file.write_all, os.ftruncate

        def half(fd, parts):
            write(fd, [b"".join(parts)[:-9]])
            raise OSError(errno.EIO, "broken")

        def no_cut(fd, size):
            if size < os.fstat(fd).st_size:
                raise OSError(errno.EIO, "broken")
            cut(fd, size)

        with monkeypatch.context() as patch:
            patch.setattr(file, "write_all", half)
            patch.setattr(os, "ftruncate", no_cut)
            assert self.replay("--sink", "file", "--since", "1h") == 3

        closed = sorted((tmp_path / "data" / "events").rglob("*.ndjson"))[1]
        assert not closed.stat().st_mode & 0o222
        assert closed.read_bytes() == b""

    def test_the_result_stays_out_of_events_on_the_standard_output(self, tmp_path):
        """What a replay to `stdout:` prints are events, and nothing else; the rest is on stderr."""
        with server(tmp_path, *KEPT, "--sink", "stdout:", "--sink", "file:") as process:
            post(process, 2)
            process.wait_for_events(2)
        command = [sys.executable, "-m", "segsrv", "journal", "replay", "--sink", "stdout"]
        (tmp_path / "segsrv.toml").write_text('sink = ["stdout:", "file:"]\n')
        command += ["--since", "1h", "--config", "segsrv.toml"]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

        assert [json.loads(line)["event"] for line in ended.stdout.splitlines()] == ["e", "e"]
        assert ended.stderr == "delivered 2 events\n"

    def test_what_the_sink_gets_anyway_is_not_sent(self, tmp_path, capsys):
        """Events that are still to be delivered do not come twice."""
        (tmp_path / "blocked").write_text("")
        sink = ("--sink", f"file:{tmp_path}/blocked")
        with server(tmp_path, *sink, "--shutdown-grace-s", "0") as process:
            post(process, 3)
        (tmp_path / "blocked").unlink()
        (tmp_path / "segsrv.toml").write_text(f'sink = ["file:{tmp_path}/blocked"]\n')
        config = ("--config", "segsrv.toml")
        name = report(capsys, *config)["sinks"][0]["sink"]
        assert self.replay(*config, "--sink", name, "--since", "1h") == 0

        assert capsys.readouterr().out == "delivered 0 events\n"
        assert not (tmp_path / "blocked").exists()

    @pytest.mark.parametrize(
        ("flags", "part"),
        [
            (["--since", "1h"], "--sink"),
            (["--sink", "nowhere", "--since", "1h"], "--sink=nowhere"),
            (["--sink", "file"], "--since"),
            (["--sink", "file", "--since", "yesterday"], "--since=yesterday"),
            (["--sink", "file", "--since", "1h", "--until", "2h"], "--until=2h"),
            (["--sink", "file", "--set-aside", "--since", "1h"], "--set-aside"),
        ],
    )
    def test_a_wrong_flag_is_one_line(self, tmp_path, capsys, flags, part):
        """Nothing is sent by accident."""
        (tmp_path / "data").mkdir()
        assert self.replay(*flags) == 2

        printed = capsys.readouterr().err
        assert part in printed
        assert printed.count("\n") == 1

    def test_as_another_user(self, tmp_path, monkeypatch, capsys):
        """A folder of root's beside the server's events would be closed to the server."""
        (tmp_path / "data" / "journal").mkdir(parents=True)
        monkeypatch.setattr(os, "geteuid", lambda: 12_345)
        assert self.replay("--sink", "file", "--since", "1h") == 3
        assert main(["dead-letter", "replay"]) == 3

        lines = capsys.readouterr().err.splitlines()
        assert all("run it as the server's user" in line for line in lines)
        assert len(lines) == 2

    def test_what_is_refused_becomes_letters(self, tmp_path, monkeypatch, capsys):
        """The sink refuses one of them; it waits as a dead letter, the others are there."""
        with server(tmp_path, *KEPT) as process:
            post(process, 5)
            process.wait_for_events(5)
        send = FileSink.send

        async def picky(self, batch, placement):
            if any(b'"number":3' in line for line in batch.lines()):
                raise SinkRejected("too odd")
            await send(self, batch, placement)

        with monkeypatch.context() as patch:
            patch.setattr(FileSink, "send", picky)
            assert self.replay("--sink", "file", "--since", "1h", "--json") == 1
        printed = capsys.readouterr()
        assert json.loads(printed.out)["delivered"] == 4
        assert "refused, and kept as dead letters: 1 event" in printed.err
        main(["dead-letter", "list", "--json"])
        row = json.loads(capsys.readouterr().out)
        assert (row["reason"], row["sink"], row["key"], row["letters"]) == (
            "sink_rejected",
            "file",
            "web",
            1,
        )

        assert main(["dead-letter", "replay"]) == 0
        events = tmp_path / "data" / "events"
        assert sorted(numbers(events)) == sorted([*range(5), *range(5)])

    def test_a_damaged_journal(self, tmp_path, capsys):
        """What can be read is sent, and the status says that it is not all."""
        with server(tmp_path, *KEPT) as process:
            for number in range(3):
                post(process, 1, first=number)
            process.wait_for_events(3)
        (path,) = segments(tmp_path)
        flip(path, path.stat().st_size // 2)
        assert self.replay("--sink", "file", "--since", "1h") == 1

        printed = capsys.readouterr()
        assert printed.out == "delivered 2 events\n"
        assert "left out, damaged or deleted meanwhile: 1 piece" in printed.err


class TestSetAside:
    def test_what_was_set_aside_is_sent_and_deleted(self, tmp_path, capsys):
        """The sink that was down has every event once when all is done."""
        (tmp_path / "late").write_text("in the way")
        (tmp_path / "segsrv.toml").write_text(
            f'[[sinks]]\nname = "late"\nurl = "file:{tmp_path}/late"\n'
            'on_full = "set_aside"\nlag_bytes_max = 1048576\nretry_s_max = 0.1\n'
        )
        flags = ("--config", str(tmp_path / "segsrv.toml"))
        folder = tmp_path / "data" / "set-aside"
        total = 0
        with server(tmp_path, *flags, "--journal-segment-bytes-max", "65536") as process:

            def is_set_aside() -> bool:
                return folder.is_dir() and any(
                    True for kept in folder.iterdir() for _part in parts_of(kept)
                )

            while not is_set_aside():
                assert total < 60_000
                post(process, 500, first=total)
                total += 500
            found = report(capsys, *flags)
            assert found["set_aside"][0]["set_aside_for"] == "late"
            assert main(["journal", "verify", *flags]) == 0

            # What a command that was killed left is finished by the next one.
            left = folder / ".delivered-late-part"
            left.mkdir()
            (tmp_path / "late").unlink()
            wait_until(lambda: report(capsys, *flags)["sinks"][0]["behind_events"] == 0)
            assert len(numbers(tmp_path / "late")) < total
            assert self.replay(*flags) == 0
        assert sorted(numbers(tmp_path / "late")) == list(range(total))
        (kept,) = folder.iterdir()
        assert list(kept.iterdir()) == []
        assert list((tmp_path / "data" / "journal").rglob("*.damaged-*")) == []

    def replay(self, *flags) -> int:
        return main(["journal", "replay", "--sink", "late", "--set-aside", *flags])


def numbers(folder) -> list[int]:
    return [
        json.loads(line)["number"]
        for path in sorted(folder.rglob("*.ndjson"))
        for line in path.read_bytes().splitlines()
    ]
