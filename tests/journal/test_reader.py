"""The reader of another process's journal: what it sees as that grows, rolls and loses files."""

import os
import shutil

import pytest

from segsrv.journal import facts, segments
from segsrv.journal.facts import Facts, Run
from segsrv.journal.log import SegmentLog
from segsrv.journal.reader import Reader
from segsrv.journal.segments import HEADER_BYTES as START
from tests.journal.old_journals import write_old_segment
from tests.journal.segment_logs import (
    READ_BYTES,
    flip,
    frame_bytes,
    journal_files,
    opened,
    payload,
    set_aside,
)


def follow(reader: Reader, log: SegmentLog, position: int, bytes_max: int = READ_BYTES):
    """Read as delivery does, from *position* to the acknowledged end; return lines and position."""
    lines = []
    while position < log.end:
        chunk = reader.read(position, bytes_max=bytes_max, end=log.end)
        assert chunk.start == position
        assert chunk.end > position, "the reader does not get on"
        lines += chunk.lines.splitlines(keepends=True)
        position = chunk.end
    return lines, position


class TestFollowing:
    @pytest.mark.parametrize("bytes_max", [1, 300, READ_BYTES])
    @pytest.mark.parametrize("segment_bytes_max", [1, 400, 1 << 20])
    def test_a_journal_that_grows_and_lets_go(self, tmp_path, bytes_max, segment_bytes_max):
        """Every frame is read once, in order, over restarts, new files and deleted ones."""
        reader = Reader(tmp_path)
        position = number = 0
        found = []
        for _restart in range(3):
            with opened(tmp_path, segment_bytes_max=segment_bytes_max) as log:
                for _round in range(5):
                    for _frame in range(3):
                        log.append(payload(number), 1)
                        number += 1
                    log.probe()
                    lines, position = follow(reader, log, position, bytes_max)
                    found += lines
                    log.release(position)

        assert found == [payload(one) for one in range(number)]
        assert reader.damaged_frames == 0
        assert position == log.end

    def test_nothing_beyond_the_acknowledged_end_is_read(self, tmp_path):
        """A frame that is written and not acknowledged yet is not there, in a whole file too."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            end = log.end
            log.append(payload(1), 1)

            chunk = Reader(tmp_path).read(0, bytes_max=READ_BYTES, end=end)

            assert (chunk.end, chunk.lines) == (end, payload(0))
            assert Reader(tmp_path).read(end, bytes_max=READ_BYTES, end=end).frames == ()
            assert Reader(tmp_path).read(0, bytes_max=READ_BYTES).events == 2
        assert set_aside(tmp_path) == []

    def test_half_a_frame_of_a_growing_file_is_no_damage(self, tmp_path):
        """Without an end, what is being written now is left for the next reading."""
        reader = Reader(tmp_path)
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            log.append(payload(1), 1)
            end = log.end
            file = journal_files(tmp_path)[0]
            os.truncate(file, end - 5)

            assert reader.read(0, bytes_max=READ_BYTES).lines == payload(0)
        assert (reader.damaged_frames, set_aside(tmp_path)) == (0, [])
        chunk = Reader(tmp_path).read(0, bytes_max=READ_BYTES, end=end)
        assert (chunk.lines, chunk.end) == (payload(0), end)
        assert len(set_aside(tmp_path)) == 1

    def test_a_range_is_read_again_as_it_was(self, tmp_path):
        """A chunk's start and end name the same events for good, also behind damage."""
        with opened(tmp_path, segment_bytes_max=300) as log:
            for number in range(20):
                log.append(payload(number), 1)
            flip(journal_files(tmp_path)[2], START + 30)
            reader = Reader(tmp_path)
            position = 0
            while position < log.end:
                chunk = reader.read(position, bytes_max=500, end=log.end)
                size = chunk.end - chunk.start
                again = Reader(tmp_path).read(chunk.start, bytes_max=size, end=chunk.end)
                assert (again.end, again.lines) == (chunk.end, chunk.lines)
                position = chunk.end
        assert reader.damaged_frames == 1

    def test_a_position_that_jumped_is_no_loss(self, tmp_path):
        """Positions that a restart left out, above a cursor, were never anybody's."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            end = log.end
        with opened(tmp_path, position_min=end + 5_000) as log:
            reader = Reader(tmp_path)
            assert follow(reader, log, 0) == ([payload(0)], end + 5_000)
            log.append(payload(1), 1)
            assert follow(reader, log, 0)[0] == [payload(0), payload(1)]
        assert reader.damaged_frames == 0

    def test_it_does_not_change_the_folder_of_a_tool(self, tmp_path):
        """A reader that keeps no damage counts it and writes nothing."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            log.append(payload(1), 1)
        flip(journal_files(tmp_path)[0], START + 30)
        reader = Reader(tmp_path, keeps_damage=False)

        assert reader.read(0, bytes_max=READ_BYTES).lines == payload(1)
        assert reader.damaged_frames == 1
        assert set_aside(tmp_path) == []


class TestLosses:
    @pytest.mark.parametrize("is_known", [False, True])
    def test_a_removed_file_is_stepped_over(self, tmp_path, caplog, is_known):
        """It costs its own events, and is counted and told once however often it is met."""
        with opened(tmp_path, segment_bytes_max=1) as log:
            for number in range(5):
                log.append(payload(number), 1)
            reader = Reader(tmp_path)
            if is_known:
                assert len(follow(reader, log, 0)[0]) == 5
            journal_files(tmp_path)[2].unlink()

            for bytes_max in (1, READ_BYTES):
                lines, position = follow(reader, log, 0, bytes_max)
                assert lines == [payload(number) for number in (0, 1, 3, 4)]
                assert position == log.end
        assert reader.damaged_frames == 1
        assert len(caplog.records) == 1
        assert f"bytes={START + frame_bytes(0)}" in caplog.text

    @pytest.mark.parametrize("is_known", [False, True])
    def test_the_newest_file_is_gone(self, tmp_path, is_known):
        """What was acknowledged and is gone does not hold the reader up."""
        with opened(tmp_path, segment_bytes_max=1) as log:
            for number in range(3):
                log.append(payload(number), 1)
            reader = Reader(tmp_path)
            if is_known:
                follow(reader, log, 0)
            journal_files(tmp_path)[-1].unlink()

            assert follow(reader, log, 0) == ([payload(0), payload(1)], log.end)
        assert reader.damaged_frames == 1

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_file_that_lost_its_end(self, tmp_path, number):
        """The reader gets past a file that became shorter, and counts that once."""
        with opened(tmp_path, segment_bytes_max=300) as log:
            for count in range(12):
                log.append(payload(count), 1)
            assert len(journal_files(tmp_path)) == 3
            file = journal_files(tmp_path)[number]
            os.truncate(file, START + frame_bytes(0) + 3)
            reader = Reader(tmp_path)

            lines, position = follow(reader, log, 0)

            assert len(lines) == 9
            assert position == log.end
            assert follow(reader, log, 0)[0] == lines
        assert reader.damaged_frames == 1
        assert [path.stat().st_size for path in set_aside(tmp_path)] == [3]

    def test_errors_name_the_file(self, tmp_path, monkeypatch):
        """A disk's error, and memory that ran out, are errors of the file, for another try."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
        for fault, text in ((OSError(5, "Input/output error"), "put/out"), (MemoryError(), "memo")):

            def refuse(_fd: int, _size: int, _offset: int, fault=fault) -> bytes:
                raise fault

            with monkeypatch.context() as patch:
                patch.setattr(os, "pread", refuse)
                with pytest.raises(OSError, match=rf"{text}.*{'0' * 20}\.segment"):
                    Reader(tmp_path).read(0, bytes_max=READ_BYTES)

    def test_a_folder_that_is_gone_is_an_error(self, tmp_path):
        """An unmounted disk is no empty journal."""
        reader = Reader(tmp_path / "w0")
        with opened(tmp_path / "w0") as log:
            log.append(payload(0), 1)
            follow(reader, log, 0)
            shutil.rmtree(tmp_path / "w0")
            with pytest.raises(FileNotFoundError):
                reader.read(0, bytes_max=READ_BYTES, end=log.end)

    def test_a_segment_of_a_later_version_is_left_alone(self, tmp_path):
        """What a later release wrote is neither guessed at nor cut off."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            journal_id, end = log.id, log.end
        header = segments.Header(journal_id, end, end, 0, version=3)
        later = segments.segment_path(tmp_path, end)
        later.write_bytes(segments.pack_header(header) + b"frames of a kind to come")
        before = later.read_bytes()

        with opened(tmp_path) as log:
            log.append(payload(1), 1)
            assert follow(Reader(tmp_path), log, 0)[0] == [payload(0), payload(1)]
        assert later.read_bytes() == before


class TestFacts:
    def test_they_come_with_the_lines(self, tmp_path):
        """Each event's facts are read back as they were, with where its line is."""
        lines = [b'{"a":1}\n', b"{}\n", b'{"b":"\xc3\xa9"}\n']
        runs = [
            Run(
                "web",
                "flat",
                1_000,
                ["track", "page"],
                [len(line) for line in lines[:2]],
                ["1", "é"],
            ),
            Run("app", "compat", 2_000, "track", [len(lines[2])], ["3"]),
        ]
        with opened(tmp_path) as log:
            log.append(b"".join(lines), 3, facts.join(map(facts.encode, runs)))

        (stored,) = Reader(tmp_path).read(0, bytes_max=1).frames

        assert (stored.position, stored.events) == (START, 3)
        assert bytes(stored.payload) == b"".join(lines)
        assert stored.runs == runs
        assert list(facts.each(stored.runs)) == [
            Facts("web", "flat", 1_000, "track", 8, "1"),
            Facts("web", "flat", 1_000, "page", 3, "é"),
            Facts("app", "compat", 2_000, "track", len(lines[2]), "3"),
        ]

    @pytest.mark.parametrize(
        "known",
        [
            pytest.param(b"", id="none"),
            pytest.param(b"[]", id="empty"),
            pytest.param(b"{", id="no_json"),
            pytest.param(b"[1]", id="no_run"),
            pytest.param(b'[["k","flat",1,"track",[2],["1"]]]', id="too_few"),
            pytest.param(b'[["k","flat",1,"track",[2,3],["1","2"]]]', id="too_long"),
            pytest.param(b'[["k","flat",1,["track"],[2,2],["1","2"]]]', id="too_few_types"),
        ],
    )
    def test_facts_that_do_not_fit_are_none(self, tmp_path, known):
        """Events whose facts are missing or wrong are events of which nothing is known."""
        with opened(tmp_path) as log:
            log.append(b"1\n2\n", 2, known)

        (stored,) = Reader(tmp_path).read(0, bytes_max=1).frames

        assert stored.runs == [Run("", "", 0, "", [2, 2], ["", ""])]

    def test_old_frames_have_none(self, tmp_path):
        """Of events in journals of the first releases nothing but the line is known."""
        write_old_segment(tmp_path, 0, [b"1\n22\n"])

        (stored,) = Reader(tmp_path).read(0, bytes_max=1).frames

        assert (stored.events, bytes(stored.payload)) == (2, b"1\n22\n")
        assert stored.runs == [Run("", "", 0, "", [2, 3], ["", ""])]
