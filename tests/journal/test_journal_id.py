"""Which journal a folder holds, for cursors to be matched with it."""

import shutil

import pytest

from segsrv.journal import segments
from segsrv.journal.log import SegmentLog
from segsrv.journal.recovery import identify
from segsrv.journal.segments import HEADER_BYTES as START
from tests.journal.old_journals import write_old_segment
from tests.journal.segment_logs import flip, frame_bytes, journal_files, opened, payload

HEX_CHARS = 32


def held(log: SegmentLog) -> list[segments.Header]:
    return [segments.read_header(segment) for segment in log.segments]


class TestId:
    def test_it_is_random_and_lasts(self, tmp_path):
        """A journal keeps its id over restarts, new files and deleted ones; another has its own."""
        ids = set()
        for _restart in range(3):
            with opened(tmp_path / "w0", segment_bytes_max=1) as log:
                for number in range(3):
                    log.append(payload(number), 1)
                log.release(log.end)
                ids.add(log.id)
                assert {header.journal_id for header in held(log)} == ids
        with opened(tmp_path / "w1") as other:
            ids.add(other.id)

        assert len(ids) == 2
        assert all(len(one) == HEX_CHARS and int(one, 16) >= 0 for one in ids)

    def test_the_newest_sound_header_says_it(self, tmp_path):
        """Damage to headers costs the id only when no other is left."""
        with opened(tmp_path, segment_bytes_max=1) as log:
            for number in range(3):
                log.append(payload(number), 1)
            journal_id = log.id
        for path in journal_files(tmp_path)[1:]:
            flip(path, 30)
        with opened(tmp_path) as log:
            assert log.id == journal_id
        for path in journal_files(tmp_path):
            flip(path, 31)
        with opened(tmp_path) as log:
            assert log.id != journal_id

    def test_a_journal_that_was_made_again_is_another(self, tmp_path):
        """A cursor of a journal that was removed does not fit the one in its place."""
        with opened(tmp_path / "w0") as log:
            log.append(payload(0), 1)
            first = log.id
        shutil.rmtree(tmp_path / "w0")
        with opened(tmp_path / "w0") as log:
            assert log.id != first

    def test_headers_say_where_the_file_before_ended(self, tmp_path):
        """Each header names its own position, and the last acknowledged one before."""
        with opened(tmp_path, segment_bytes_max=1) as log:
            for number in range(3):
                log.append(payload(number), 1)
            size = START + frame_bytes(0)
            expected = [(0, 0), (size, size), (2 * size, 2 * size)]
            assert [(one.base, one.end_before) for one in held(log)] == expected
            assert all(one.created_ms > 1_600_000_000_000 for one in held(log))


class TestIdentify:
    def test_there_is_none(self, tmp_path):
        """A folder that is missing, empty or holds other files is no journal."""
        assert identify(tmp_path / "w0") is None
        (tmp_path / "notes.txt").write_text("no journal")
        assert identify(tmp_path) is None

    @pytest.mark.parametrize("frames", [0, 1, 5])
    @pytest.mark.parametrize("segment_bytes_max", [1, 1 << 20])
    def test_it_says_what_opening_would(self, tmp_path, frames, segment_bytes_max):
        """Id, first position and end are those of the journal, also beside its owner."""
        with opened(tmp_path, segment_bytes_max=segment_bytes_max) as log:
            for number in range(frames):
                log.append(payload(number), 1)
            log.release(2 * (START + frame_bytes(0)))
            assert identify(tmp_path) == (log.id, log.first, log.end)
        assert identify(tmp_path) == (log.id, log.first, log.end)

    def test_it_changes_nothing(self, tmp_path):
        """A torn tail is not counted, not cut off and not kept aside by looking."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            expected = (log.id, log.first, log.end)
        with journal_files(tmp_path)[0].open("ab") as file:
            file.write(bytes(100))
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}

        assert identify(tmp_path) == expected
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_an_old_journal_has_no_id(self, tmp_path):
        """What the first releases wrote has positions, but nothing tells it from another."""
        end = write_old_segment(tmp_path, 10, [b"1\n", b"2\n"])

        assert identify(tmp_path) == (None, 10, end)
