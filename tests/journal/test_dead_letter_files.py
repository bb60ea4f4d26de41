"""Dead letter files: bounded, whole lines only, and never mixed between their writers."""

import os
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from segsrv.errors import JournalFault, JournalFull
from segsrv.journal import dead_letters
from segsrv.journal.dead_letters import FILES, TAIL_BYTES, DeadLetters


def contents(directory, prefix):
    return [path.read_bytes() for path in sorted(directory.glob(f"{prefix}-0*.ndjson"))]


class TestFiles:
    def test_lines_are_appended_across_restarts(self, tmp_path):
        """A new writer goes on in the newest file."""
        for number in range(3):
            letters = DeadLetters(tmp_path / "dead", prefix="w0", bytes_max=1 << 20)
            letters.append([b"%d\n" % number])

        assert contents(tmp_path / "dead", "w0") == [b"0\n1\n2\n"]

    def test_the_oldest_go_when_all_take_too_much(self, tmp_path):
        """The files together stay near the limit, and the newest lines are kept."""
        letters = DeadLetters(tmp_path, prefix="w0", bytes_max=FILES * 10)
        for number in range(100):
            letters.append([b"%09d\n" % number])

        assert contents(tmp_path, "w0") == [b"%09d\n" % number for number in range(84, 100)]

    @pytest.mark.parametrize(
        ("prefix", "other"), [("w0", "w0-file"), ("w0-file", "w0-file-2"), ("w1", "w10")]
    )
    def test_writers_with_similar_names_are_kept_apart(self, tmp_path, prefix, other):
        """A prefix that begins like another one's neither takes its files nor deletes them."""
        ours = DeadLetters(tmp_path, prefix=prefix, bytes_max=FILES)
        theirs = DeadLetters(tmp_path, prefix=other, bytes_max=1 << 20)
        theirs.append([b"theirs\n"])
        for number in range(2 * FILES):
            ours.append([b"%d\n" % number])
        theirs.append([b"theirs too\n"])

        assert contents(tmp_path, other) == [b"theirs\ntheirs too\n"]
        assert len(contents(tmp_path, prefix)) == FILES

    def test_a_failed_write_leaves_no_trace(self, tmp_path, monkeypatch):
        """Lines that could not be synced are taken back, so a retry does not double them."""
        letters = DeadLetters(tmp_path, prefix="w0", bytes_max=1 << 20)
        letters.append([b"1\n"])

        def refuse(_fd: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", refuse)
            with pytest.raises(JournalFault, match="Input/output error"):
                letters.append([b"2\n"])
        letters.append([b"2\n"])

        assert contents(tmp_path, "w0") == [b"1\n2\n"]


class TestHalfLines:
    @pytest.mark.parametrize("whole", [b"", b"1\n", b"1\n2\n"])
    @pytest.mark.parametrize("half", [b'{"n":', b"x" * (2 * TAIL_BYTES + 1), bytes(10)])
    def test_what_a_crash_left_is_cut_off(self, tmp_path, whole, half):
        """A line that was never acknowledged does not spoil the one behind it."""
        (tmp_path / "w0-00000001.ndjson").write_bytes(whole + half)

        letters = DeadLetters(tmp_path, prefix="w0", bytes_max=1 << 30)
        letters.append([b"3\n"])
        letters.append([b"4\n"])

        assert contents(tmp_path, "w0") == [whole + b"3\n4\n"]

    def test_what_a_failure_left_is_cut_off(self, tmp_path, monkeypatch):
        """When a half written line can't be taken back at once, the next write does it."""
        letters = DeadLetters(tmp_path, prefix="w0", bytes_max=1 << 20)
        letters.append([b"1\n"])

        def write_half(fd: int, _parts: list[bytes]) -> None:
            os.write(fd, b"ha")
            raise OSError(28, "No space left on device")

        def refuse(_fd: int, _size: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(dead_letters, "write_all", write_half)
            patch.setattr(os, "ftruncate", refuse)
            with pytest.raises(JournalFull):
                letters.append([b"2\n"])
        assert contents(tmp_path, "w0") == [b"1\nha"]

        letters.append([b"3\n"])
        assert contents(tmp_path, "w0") == [b"1\n3\n"]

    def test_a_full_file_is_mended_too(self, tmp_path):
        """Half a line at the end of a file that takes nothing more goes at the next start."""
        (tmp_path / "w0-00000001.ndjson").write_bytes(b"1\n" + b"half")
        DeadLetters(tmp_path, prefix="w0", bytes_max=FILES).append([b"2\n"])
        assert contents(tmp_path, "w0") == [b"1\n", b"2\n"]

    def test_what_was_refused_never_appears_behind_a_success(self, tmp_path, monkeypatch):
        """Whole lines that could be neither synced nor taken back go with the next write."""
        letters = DeadLetters(tmp_path, prefix="w0", bytes_max=FILES * 4)
        letters.append([b"1\n"])

        def refuse(*_arguments: object) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", refuse)
            patch.setattr(os, "ftruncate", refuse)
            with pytest.raises(JournalFault):
                letters.append([b"refused\n"])
        letters.append([b"3\n"])

        assert contents(tmp_path, "w0") == [b"1\n3\n"]

    @pytest.mark.parametrize(
        ("left", "expected"),
        [
            (b"1\n" + bytes(9) + b"lf}\n3\n", b"1\n3\n4\n"),
            (b"1\n{ha" + bytes(9) + b"lf}\n3\n{" + bytes(5), b"1\n3\n4\n"),
            (bytes(9) + b"\n", b"4\n"),
        ],
    )
    def test_zeros_of_a_power_cut_are_taken_out(self, tmp_path, left, expected):
        """Lines with blocks that were never written go, and whole lines behind them stay."""
        (tmp_path / "w0-00000001.ndjson").write_bytes(left)
        DeadLetters(tmp_path, prefix="w0", bytes_max=1 << 20).append([b"4\n"])
        assert contents(tmp_path, "w0") == [expected]


class TestTime:
    def test_a_letter_without_one_gets_it(self, tmp_path):
        """The time of writing is RFC 3339 and in UTC; nothing else of the letter changes."""
        letter = {"reason": "r", "item": {"time": 1}}
        before = datetime.now(UTC) - timedelta(milliseconds=1)
        letters = DeadLetters(tmp_path, prefix="w0", bytes_max=1 << 20)
        letters.append([orjson.dumps(letter) + b"\n"])
        (stored,) = map(orjson.loads, contents(tmp_path, "w0"))

        time = stored.pop("time")
        assert time.endswith("Z")
        assert before <= datetime.fromisoformat(time) <= datetime.now(UTC)
        assert stored == letter

    def test_one_that_has_it_keeps_it(self, tmp_path):
        """Neither is what is no object touched."""
        lines = [b'{"reason":"r","time":"2026-11-25T00:00:00Z"}\n', b"{}\n"]
        letters = DeadLetters(tmp_path, prefix="w0", bytes_max=1 << 20)
        letters.append(lines)
        assert contents(tmp_path, "w0") == [b"".join(lines)]

    def test_a_full_disk_is_told_from_a_broken_one(self, tmp_path, monkeypatch):
        """The error of a full disk is `journal_full`, as it is for events."""

        def refuse(_fd: int, _parts: list[bytes]) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(dead_letters, "write_all", refuse)
        with pytest.raises(JournalFull, match="No space left"):
            DeadLetters(tmp_path, prefix="w0", bytes_max=1 << 20).append([b"1\n"])
