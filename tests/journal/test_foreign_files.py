"""Files in the journal's folder that are none of its own: left alone, and in nobody's way."""

import os

import pytest

from segsrv.journal.aside import Aside
from tests.journal.segment_logs import drain, frame_bytes, journal_files, opened, payload

NAMES = ("00000000000000005000.segment", "00000000000000005000.journal")


def a_file(path):
    path.write_bytes(b"somebody's")


def a_link(path):
    target = path.with_name("target")
    target.write_bytes(b"somebody's")
    path.symlink_to(target)


def a_dangling_link(path):
    path.symlink_to(path.with_name("nowhere"))


KINDS = [os.mkdir, os.mkfifo, a_link, a_dangling_link]


class TestForeignFiles:
    @pytest.mark.parametrize("make", [a_file, *KINDS])
    @pytest.mark.parametrize(
        "name",
        [
            "backup.journal",
            "1.segment",
            "00000000000000005000.journal.segment",
            f"{'9' * 20}.segment",
            "-0000000000000000001.journal",
        ],
    )
    def test_names_that_are_no_positions(self, tmp_path, caplog, make, name):
        """A copy that somebody put there neither prevents a start nor is ever touched."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
        make(tmp_path / name)
        caplog.clear()

        with opened(tmp_path) as log:
            log.append(payload(1), 1)
            assert drain(log) == [payload(0), payload(1)]
            log.release(log.end)
            assert (log.damaged_frames, log.torn_tails) == (0, 0)
        assert os.path.lexists(tmp_path / name)
        assert [record.message for record in caplog.records] == [
            f"journal: files that are no segments are left alone count=1 files={name}"
        ]

    @pytest.mark.parametrize("make", KINDS)
    @pytest.mark.parametrize("name", NAMES)
    def test_right_names_of_things_that_are_no_files(self, tmp_path, caplog, make, name):
        """A pipe, a folder or a link is no segment, whatever it is called, and hangs nothing."""
        make(tmp_path / name)

        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            assert log.first == 0
        with opened(tmp_path) as log:
            assert drain(log) == [payload(0)]
        assert os.path.lexists(tmp_path / name)
        assert caplog.text.count("are left alone") == 2

    @pytest.mark.parametrize("make", [a_file, *KINDS])
    def test_one_where_the_next_file_would_be(self, tmp_path, make):
        """The next file gets another name; the journal goes on behind what is in its way."""
        with opened(tmp_path, segment_bytes_max=1) as log:
            log.append(payload(0), 1)
            in_the_way = tmp_path / f"{log.end:020d}.segment"
            make(in_the_way)
            log.append(payload(1), 1)
            log.append(payload(2), 1)
            assert drain(log) == [payload(number) for number in range(3)]
            assert os.path.lexists(in_the_way)

    def test_pieces_that_cannot_be_kept(self, tmp_path, caplog):
        """Something under the name of a piece to be set aside hangs nothing and is not replaced."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
        end = 64 + frame_bytes(0)
        with journal_files(tmp_path)[0].open("ab") as file:
            file.write(b"?" * 40)
        os.mkfifo(tmp_path / f"{0:020d}.segment.damaged-{end}")

        with opened(tmp_path) as log:
            assert drain(log) == [payload(0)]
            assert log.damaged_frames == 1
        kept = tmp_path / f"{0:020d}.segment.damaged-{end}.1"
        assert kept.read_bytes() == b"?" * 40
        assert len(caplog.records) == 1


class TestPiecesSetAside:
    def test_the_oldest_go_first(self, tmp_path):
        """Pieces never take more than their limit; the newest are kept."""
        aside = Aside(tmp_path, bytes_max=1_000)
        segment = tmp_path / f"{0:020d}.segment"
        for number in range(20):
            assert aside.keep(segment, number, b"x" * 300)
            path = tmp_path / f"{segment.name}.damaged-{number}"
            os.utime(path, (number, number))

        kept = sorted(path.name for path in tmp_path.glob("*.damaged-*"))
        assert kept == [f"{segment.name}.damaged-{number}" for number in (17, 18, 19)]
        assert aside.keep(segment, 99, b"y" * 5_000, is_torn=True)
        assert [path.stat().st_size for path in tmp_path.iterdir()] == [1_000]
        assert (aside.damaged_frames, aside.torn_tails) == (20, 1)

    def test_what_cannot_be_kept_is_not_cut_off(self, tmp_path, monkeypatch, caplog):
        """On a full disk the last bytes stay where they are, and the journal goes on."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
        file = journal_files(tmp_path)[0]
        with file.open("ab") as appended:
            appended.write(b"?" * 40)
        before = file.read_bytes()

        def refuse(_fd: int, _parts: list[bytes]) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("segsrv.journal.aside.write_all", refuse)
            with opened(tmp_path) as log:
                log.append(payload(1), 1)
                assert drain(log) == [payload(0), payload(1)]
                assert log.damaged_frames == 1
        assert file.read_bytes() == before
        assert len(caplog.records) == 1
        with opened(tmp_path) as log:
            assert drain(log) == [payload(0), payload(1)]
