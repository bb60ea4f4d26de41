"""Following a journal and dead letters from outside, whatever becomes of the files meanwhile."""

import orjson

from segsrv.journal.facts import Run, encode, join
from segsrv.live.events import JournalFollower
from segsrv.live.letters import LettersFollower
from tests.journal.segment_logs import opened


def append(log, *numbers):
    """Append one frame of these events."""
    lines = [b'{"n":%d}\n' % number for number in numbers]
    ids = [f"id-{number}" for number in numbers]
    run = Run("web", "flat", 1_700_000_000_000, "track", [len(line) for line in lines], ids)
    log.append(b"".join(lines), len(lines), join([encode(run)]))


def numbers(followed):
    return [orjson.loads(seen.line)["n"] for seen in followed.events]


class TestJournal:
    def test_each_event_is_seen_once(self, tmp_path):
        """At first the newest, in order; then what came since, over the ends of segments."""
        with opened(tmp_path, segment_bytes_max=400) as log:
            follower = JournalFollower(tmp_path)
            assert numbers(follower.read(10)) == []
            append(log, 1, 2, 3)
            assert numbers(follower.read(2)) == [2, 3]
            assert numbers(follower.read(2)) == []
            for number in range(4, 20):
                append(log, number)
            assert numbers(follower.read(100)) == list(range(4, 20))

    def test_what_is_too_much_is_counted(self, tmp_path):
        """The newest are shown, and how many were not."""
        with opened(tmp_path) as log:
            follower = JournalFollower(tmp_path)
            for number in range(10):
                append(log, number, number + 100)
            followed = follower.read(3)
            assert numbers(followed) == [108, 9, 109]
            assert followed.passed_over == 17

    def test_segments_that_are_deleted(self, tmp_path):
        """What is gone is not seen, and what comes behind is."""
        with opened(tmp_path, segment_bytes_max=400) as log:
            follower = JournalFollower(tmp_path)
            append(log, 1)
            follower.read(1)
            for number in range(2, 30):
                append(log, number)
            log.release(log.end, retention_s=0)
            append(log, 30)
            seen = numbers(follower.read(100))
            assert seen[-1] == 30
            assert len(seen) < 29

    def test_a_journal_that_is_begun_anew(self, tmp_path):
        """The follower begins with it."""
        with opened(tmp_path) as log:
            follower = JournalFollower(tmp_path)
            append(log, *range(100))
            follower.read(1)
        for path in tmp_path.iterdir():
            path.unlink()
        with opened(tmp_path) as log:
            append(log, 7)
            assert numbers(follower.read(10)) == [7]

    def test_a_torn_end(self, tmp_path):
        """Half a frame is nothing yet; whole, it is seen."""
        with opened(tmp_path) as log:
            append(log, 1)
            append(log, 2)
        (path,) = tmp_path.glob("*.segment")
        data = path.read_bytes()
        whole = data.rstrip(b"\0")
        path.write_bytes(whole[:-10])
        follower = JournalFollower(tmp_path)
        assert numbers(follower.read(10)) == [1]
        path.write_bytes(data)
        assert numbers(follower.read(10)) == [2]
        assert {each.name for each in tmp_path.iterdir()} <= {path.name, "lock"}


class TestLetters:
    def test_each_letter_is_seen_once(self, tmp_path):
        """New lines in any file, whole ones only."""
        path = tmp_path / "w0-00000001.ndjson"
        follower = LettersFollower(tmp_path)
        assert follower.read() == []

        def letter(number):
            said = {"time": "2026-11-23T09:00:00Z", "reason": "r", "item": {"n": number}}
            return orjson.dumps(said) + b"\n"

        path.write_bytes(letter(1) + letter(2)[:-5])
        assert [one["excerpt"] for one in follower.read()] == ['{"n":1}']
        path.write_bytes(letter(1) + letter(2) + b"no letter\n")
        assert [one["excerpt"] for one in follower.read()] == ['{"n":2}']
        path.write_bytes(letter(1))
        assert follower.read() == []
        with path.open("ab") as file:
            file.write(letter(3))
        assert [one["excerpt"] for one in follower.read()] == ['{"n":3}']
        path.unlink()
        assert follower.read() == []
