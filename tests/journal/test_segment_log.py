"""The segment log: order, recovery after each kind of damage, release, lock and failed writes."""

import errno
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from segsrv.errors import DataDirInUse, JournalFault, JournalFull
from segsrv.journal import log as log_module
from segsrv.journal.frame import HEADER_BYTES, OVERHEAD_BYTES
from segsrv.journal.log import FOUND_INTERVAL_S, SegmentLog
from segsrv.journal.segments import HEADER_BYTES as START
from tests.journal.children import run_child
from tests.journal.old_journals import write_old_segment
from tests.journal.segment_logs import (
    READ_BYTES,
    cut_off,
    drain,
    fill,
    flip,
    frame_bytes,
    journal_files,
    opened,
    payload,
    refuse,
    refuse_syncs,
    set_aside,
)


def read(log: SegmentLog, start: int, end: int | None = None) -> tuple[int, int, int, bytes]:
    """Read a range, or all from *start* on, and return what a chunk says."""
    bytes_max = READ_BYTES if end is None else end - start
    chunk = log.read(start, bytes_max=bytes_max, end=end)
    return chunk.start, chunk.end, chunk.events, chunk.lines


def lines(*numbers: int) -> list[bytes]:
    return [payload(number) for number in numbers]


class TestAppendAndRead:
    def test_read_returns_what_was_appended(self, tmp_path):
        """Frames come back in order, with their event counts, from any frame's position."""
        with opened(tmp_path) as log:
            log.append(b"1\n2\n", 2)
            middle = log.end
            log.append(b"3\n", 1)

            assert read(log, 0) == (0, log.end, 3, b"1\n2\n3\n")
            assert read(log, middle) == (middle, log.end, 1, b"3\n")

    def test_read_at_the_end_returns_nothing(self, tmp_path):
        """A reader that has everything gets an empty batch where it stands."""
        with opened(tmp_path) as log:
            log.append(b"1\n", 1)

            assert read(log, log.end) == (log.end, log.end, 0, b"")

    @pytest.mark.parametrize("bytes_max", [1, HEADER_BYTES, HEADER_BYTES + 1, 200])
    def test_a_frame_larger_than_bytes_max_is_read_whole(self, tmp_path, bytes_max):
        """A small read size slows a reader down but never stops it or cuts a frame."""
        fill(tmp_path, range(5), size=1_000)

        with opened(tmp_path) as log:
            expected = [payload(number, size=1_000) for number in range(5)]
            assert drain(log, bytes_max=bytes_max) == expected

    def test_bytes_max_bounds_a_read(self, tmp_path):
        """A read takes no more whole frames than fit in its size."""
        positions = fill(tmp_path, range(5))

        with opened(tmp_path) as log:
            batch = log.read(0, bytes_max=2 * frame_bytes(0) + 1)

        assert (batch.events, batch.end) == (2, positions[2])

    def test_read_with_an_end_returns_exactly_that_range(self, tmp_path):
        """Every range that was once read is read again as the same batch, whatever bytes_max is."""
        positions = fill(tmp_path, range(6))

        with opened(tmp_path) as log:
            ends = [*positions[1:], positions[-1] + frame_bytes(5)]
            for first, start in enumerate(positions):
                for last in range(first, 6):
                    expected = b"".join(lines(*range(first, last + 1)))
                    assert read(log, start, ends[last]) == (
                        start,
                        ends[last],
                        last - first + 1,
                        expected,
                    )


class TestRoll:
    def test_a_new_file_begins_at_the_size_limit(self, tmp_path):
        """Each file is named after its first byte's position and the reader passes from one on."""
        size = frame_bytes(0)
        with opened(tmp_path, segment_bytes_max=2 * size) as log:
            for number in range(5):
                log.append(payload(number), 1)

            file_bytes = START + 2 * size
            bases = [int(path.stem) for path in journal_files(tmp_path)]
            assert bases == [0, file_bytes, 2 * file_bytes]
            assert drain(log) == lines(*range(5))

    @pytest.mark.parametrize("first", range(6))
    @pytest.mark.parametrize("count", range(1, 7))
    def test_a_read_passes_from_file_to_file(self, tmp_path, first, count):
        """A batch takes as many files as its size allows, and is read again as it was."""
        size = frame_bytes(0)
        with opened(tmp_path, segment_bytes_max=1) as log:
            for number in range(6):
                log.append(payload(number), 1)
            start = first * (START + size)

            batch = log.read(start, bytes_max=count * (START + size))
            again = log.read(batch.start, bytes_max=batch.end - batch.start, end=batch.end)

            assert batch.lines == b"".join(lines(*range(first, min(first + count, 6))))
            assert (again.start, again.end, again.lines) == (*batch[:2], batch.lines)

    def test_a_start_begins_a_new_file_and_leaves_no_empty_one(self, tmp_path):
        """Restarts without events don't pile up files."""
        fill(tmp_path, range(1))
        for _restart in range(3):
            with opened(tmp_path):
                pass

        sizes = [path.stat().st_size for path in journal_files(tmp_path)]
        assert sizes == [START + frame_bytes(0), START]


class TestTornTail:
    def test_a_tail_cut_at_any_byte_is_cut_off(self, tmp_path):
        """At every length of the last frame those before survive, and new ones are readable."""
        positions = fill(tmp_path / "whole", range(3))
        whole = journal_files(tmp_path / "whole")[0]
        for length in range(positions[2], positions[2] + frame_bytes(2)):
            directory = tmp_path / str(length)
            directory.mkdir()
            (directory / whole.name).write_bytes(whole.read_bytes()[:length])

            with opened(directory) as log:
                assert log.end == positions[2]
                log.append(payload(9), 1)
                assert drain(log) == lines(0, 1, 9)
                # A frame begins with a zero, and zeros at the end are room.
                torn = whole.read_bytes()[positions[2] : length].rstrip(b"\0")
                assert (log.torn_tails, log.damaged_frames) == (bool(torn), 0)
                assert [path.read_bytes() for path in cut_off(directory)] == [torn] * bool(torn)

    @pytest.mark.parametrize("zeros", [1, HEADER_BYTES, 4_096])
    def test_a_tail_of_zeros_is_cut_off(self, tmp_path, zeros):
        """Zeros that a file system left after a power cut cost nothing that was acknowledged."""
        positions = fill(tmp_path, range(2))
        with journal_files(tmp_path)[0].open("ab") as file:
            file.write(bytes(zeros))

        with opened(tmp_path) as log:
            assert log.end == positions[1] + frame_bytes(1)
            assert drain(log) == lines(0, 1)

    def test_a_last_frame_with_zeros_for_its_payload_is_kept_beside(self, tmp_path):
        """A last frame whose payload did not reach the disk is cut off, counted and kept."""
        positions = fill(tmp_path, range(2))
        file = journal_files(tmp_path)[0]
        data = bytearray(file.read_bytes())
        begin = positions[1] + HEADER_BYTES
        data[begin : begin + len(payload(1))] = bytes(len(payload(1)))
        file.write_bytes(data)

        with opened(tmp_path) as log:
            assert drain(log) == lines(0)
            assert (log.torn_tails, log.damaged_frames) == (0, 1)
        assert file.stat().st_size == positions[1]
        assert [path.stat().st_size for path in set_aside(tmp_path)] == [frame_bytes(1)]


class TestDamageInTheMiddle:
    @pytest.mark.parametrize(
        "offset",
        [
            pytest.param((HEADER_BYTES,), id="first_byte"),
            pytest.param((HEADER_BYTES + 3,), id="payload"),
            pytest.param((0, -1), id="header_and_trailer"),
            pytest.param((0, HEADER_BYTES), id="header_and_payload"),
            pytest.param((-1, HEADER_BYTES), id="trailer_and_payload"),
        ],
    )
    def test_it_is_set_aside_and_later_frames_are_read(self, tmp_path, offset):
        """One damaged frame costs itself only; its bytes are kept beside, counted once."""
        positions = fill(tmp_path, range(4))
        file = journal_files(tmp_path)[0]
        for one in offset:
            flip(file, (positions[1] if one >= 0 else positions[2]) + one)
        damaged = file.read_bytes()[positions[1] : positions[2]]

        with opened(tmp_path) as log:
            assert drain(log) == lines(0, 2, 3)
            assert drain(log) == lines(0, 2, 3)
            assert log.damaged_frames == 1
        assert [path.read_bytes() for path in set_aside(tmp_path)] == [damaged]

    def test_many_damaged_frames_in_a_row_are_stepped_over(self, tmp_path):
        """A stretch of damage longer than a read does not stop the reader."""
        positions = fill(tmp_path, range(8))
        for number in range(1, 6):
            flip(journal_files(tmp_path)[0], positions[number])
            flip(journal_files(tmp_path)[0], positions[number + 1] - 1)

        with opened(tmp_path) as log:
            assert drain(log, bytes_max=1) == lines(0, 6, 7)

    @pytest.mark.parametrize("offset", [HEADER_BYTES, HEADER_BYTES + 3])
    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_found_while_running(self, tmp_path, offset, number):
        """Damage to an open journal's file is stepped over, also in its last frame."""
        with opened(tmp_path) as log:
            positions = []
            for count in range(4):
                positions.append(max(log.end, START))
                log.append(payload(count), 1)
            flip(journal_files(tmp_path)[0], positions[number] + offset)

            rest = [count for count in range(4) if count != number]
            assert drain(log) == lines(*rest)
            assert log.damaged_frames == 1
            assert len(set_aside(tmp_path)) == 1

    @pytest.mark.parametrize("lost", [1, HEADER_BYTES, 200])
    def test_a_file_that_lost_its_end_does_not_stop_the_reader(self, tmp_path, lost):
        """When a file became shorter than what was acknowledged, the reader gets past it."""
        with opened(tmp_path, segment_bytes_max=4 * frame_bytes(0)) as log:
            for number in range(6):
                log.append(payload(number), 1)
            file = journal_files(tmp_path)[0]
            os.truncate(file, max(file.stat().st_size - lost, 0))

            found = drain(log)

            kept = (4 * frame_bytes(0) - lost) // frame_bytes(0)
            assert found == lines(*range(kept), 4, 5)
            assert log.damaged_frames == 1

    def test_damage_in_a_sealed_file_is_found_by_the_reader(self, tmp_path):
        """Only the newest file is checked at the start; the reader checks the others."""
        with opened(tmp_path, segment_bytes_max=2 * frame_bytes(0)) as log:
            for number in range(5):
                log.append(payload(number), 1)
        flip(journal_files(tmp_path)[0], START + frame_bytes(0) + HEADER_BYTES)

        with opened(tmp_path) as log:
            assert log.damaged_frames == 0
            assert drain(log) == lines(0, 2, 3, 4)
            assert log.damaged_frames == 1

    def test_bytes_beyond_the_next_file_are_not_read(self, tmp_path):
        """What a failed write left above the next file's first position was never acknowledged."""
        size = frame_bytes(0)
        with opened(tmp_path, segment_bytes_max=2 * size) as log:
            for number in range(4):
                log.append(payload(number), 1)
        sealed = journal_files(tmp_path)[0]
        sealed.write_bytes(sealed.read_bytes() + sealed.read_bytes()[:size])

        with opened(tmp_path) as log:
            assert drain(log) == lines(0, 1, 2, 3)


class TestRemovedFile:
    def test_the_reader_goes_on_behind_it(self, tmp_path, caplog):
        """A file that a cleaner took costs its own events; it is counted and logged once."""
        size = frame_bytes(0)
        with opened(tmp_path, segment_bytes_max=2 * size) as log:
            for number in range(5):
                log.append(payload(number), 1)
            removed = journal_files(tmp_path)[1]
            removed.unlink()

            assert drain(log) == lines(0, 1, 4)
            assert drain(log, bytes_max=1) == lines(0, 1, 4)
            assert log.damaged_frames == 1
            assert set_aside(tmp_path) == [], "there is nothing to keep"
        assert caplog.text.count(f"a file was removed file={removed.name}") == 1

    def test_a_range_in_it_is_read_as_empty(self, tmp_path):
        """A batch that was planned before the file went ends where it ended."""
        size = frame_bytes(0)
        with opened(tmp_path, segment_bytes_max=4 * size) as log:
            for number in range(5):
                log.append(payload(number), 1)
            journal_files(tmp_path)[0].unlink()

            assert read(log, START + size, START + 3 * size) == (
                START + size,
                START + 3 * size,
                0,
                b"",
            )

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path, monkeypatch):
        """A disk's error is raised, for another try, and says which file it is about."""

        def refuse(_fd: int, _size: int, _offset: int) -> bytes:
            raise OSError(5, "Input/output error")

        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            with monkeypatch.context() as patch:
                patch.setattr(os, "pread", refuse)
                with pytest.raises(OSError, match=rf"Input/output error.*{'0' * 20}\.segment"):
                    log.read(0, bytes_max=READ_BYTES)

            assert drain(log) == lines(0)
            assert log.damaged_frames == 0


class TestSyncs:
    """What is synced when; a path stands for each file, and for the folder."""

    @staticmethod
    def recorded(monkeypatch) -> list[str]:
        calls: list[str] = []

        def record(owner: object, name: str) -> None:
            real = getattr(owner, name)

            def call(fd: int, *arguments: object) -> object:
                path = Path(f"/proc/self/fd/{fd}").readlink()
                is_synced = name == "pwritev" and os.RWF_DSYNC in arguments
                calls.append(f"{name} {path.stem.lstrip('0') or '0'}{' synced' * is_synced}")
                return real(fd, *arguments)

            monkeypatch.setattr(owner, name, call)

        for name in ("writev", "pwritev", "fdatasync", "fsync"):
            record(os, name)
        return calls

    @pytest.mark.parametrize("has_dsync", [True, False])
    def test_a_new_file_is_found_before_it_is_relied_on(self, tmp_path, monkeypatch, has_dsync):
        """A file's name is on stable storage before the first commit in it is acknowledged."""
        with opened(tmp_path / "w0", segment_bytes_max=1) as log:
            log.writer.has_dsync = has_dsync
            log.append(payload(0), 1)
            calls = self.recorded(monkeypatch)
            base = log.end
            log.append(payload(1), 1)

        written = [f"pwritev {base} synced"]
        if not has_dsync:
            written = [f"pwritev {base}", f"fdatasync {base}"]
        assert calls == [f"writev {base}", "fsync w0", *written]

    @pytest.mark.parametrize("has_dsync", [True, False])
    def test_no_sync_is_done_that_nobody_asked_for(self, tmp_path, monkeypatch, has_dsync):
        """A log that hands its frames to the kernel only does nothing but that."""
        with opened(tmp_path) as log:
            log.writer.is_synced, log.writer.has_dsync = False, has_dsync
            calls = self.recorded(monkeypatch)
            log.append(payload(0), 1)
            log.append(payload(1), 1)

        assert calls == ["pwritev 0"] * 2

    def test_a_kernel_without_the_one_call_is_asked_once(self, tmp_path, monkeypatch):
        """After its refusal frames are written and synced in two calls, the first one again."""
        with opened(tmp_path) as log:
            calls = self.recorded(monkeypatch)
            write = os.pwritev

            def write_plainly(fd: int, parts: list[bytes], offset: int, flags: int = 0) -> int:
                if flags:
                    calls.append("refused")
                    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
                return write(fd, parts, offset)

            monkeypatch.setattr(os, "pwritev", write_plainly)
            log.append(payload(0), 1)
            log.append(payload(1), 1)

            assert calls == ["refused", *["pwritev 0", "fdatasync 0"] * 2]
            assert drain(log) == lines(0, 1)

    @pytest.mark.parametrize("is_old", [False, True])
    def test_the_id_is_on_stable_storage_once_it_is_open(self, tmp_path, monkeypatch, is_old):
        """A cursor that names the id must not outlive it, so a start waits for its header."""
        base = write_old_segment(tmp_path / "w0", 0, [b"1\n"]) if is_old else 0
        (tmp_path / "w0").mkdir(exist_ok=True)
        calls = self.recorded(monkeypatch)

        with opened(tmp_path / "w0"):
            assert calls[-3:] == [f"writev {base}", "fsync w0", f"fdatasync {base}"]


class TestPositions:
    def test_they_go_on_after_a_restart(self, tmp_path):
        """New frames lie above all old ones, so nothing new passes for delivered."""
        positions = fill(tmp_path, range(3))
        end = positions[2] + frame_bytes(2)

        with opened(tmp_path) as log:
            assert log.end == end
            log.append(payload(3), 1)
            assert drain(log, position=end) == lines(3)

    @pytest.mark.parametrize("beyond", [1, 1_000_000])
    def test_they_begin_above_every_cursor(self, tmp_path, beyond):
        """With a cursor beyond the end (the journal lost its tail) new frames lie above it."""
        positions = fill(tmp_path, range(2))
        cursor = positions[1] + frame_bytes(1) + beyond

        with opened(tmp_path, position_min=cursor) as log:
            assert log.end == cursor
            log.append(payload(2), 1)
            assert drain(log, position=cursor) == lines(2)
            assert drain(log) == lines(0, 1, 2)
        with opened(tmp_path, position_min=cursor) as log:
            assert drain(log) == lines(0, 1, 2)

    def test_a_cursor_above_a_lost_journal(self, tmp_path):
        """When the journal's files were removed, positions still begin at the cursor."""
        with opened(tmp_path, position_min=5_000) as log:
            log.append(payload(0), 1)

            assert (log.first, log.end) == (5_000, 5_000 + START + frame_bytes(0))
            assert drain(log) == lines(0)

    def test_they_go_on_after_everything_was_cut_off(self, tmp_path):
        """A restart after a damaged only frame goes on in the same file."""
        fill(tmp_path, range(1))
        flip(journal_files(tmp_path)[0], START + HEADER_BYTES)

        with opened(tmp_path) as log:
            assert log.end == 0
            log.append(payload(1), 1)
        with opened(tmp_path) as log:
            assert drain(log) == lines(1)


class TestRelease:
    def test_only_files_wholly_below_the_position_go(self, tmp_path):
        """A file with one byte that is not delivered stays, and the newest stays always."""
        size = START + frame_bytes(0)
        with opened(tmp_path, segment_bytes_max=1) as log:
            for number in range(4):
                log.append(payload(number), 1)

            log.release(2 * size - 1)
            assert (log.first, drain(log, position=log.first)) == (size, lines(1, 2, 3))
            log.release(2 * size)
            assert (log.first, drain(log, position=log.first)) == (2 * size, lines(2, 3))
            log.release(log.end)
            assert [int(path.stem) for path in journal_files(tmp_path)] == [3 * size]
            assert log.damaged_frames == 0
        with opened(tmp_path) as log:
            assert log.end == 4 * size

    def test_retention_keeps_delivered_files(self, tmp_path):
        """Delivered files stay until they are older than the retention."""
        size = START + frame_bytes(0)
        with opened(tmp_path, segment_bytes_max=1) as log:
            for number in range(3):
                log.append(payload(number), 1)
            oldest = journal_files(tmp_path)[0]
            os.utime(oldest, (0, oldest.stat().st_mtime - 7_200))

            log.release(log.end, retention_s=3_600)

            assert log.first == size
            assert drain(log) == lines(1, 2)

    def test_a_file_removed_by_hand_is_no_fault(self, tmp_path):
        """A delivered file that is gone already counts as deleted, with and without retention."""
        size = START + frame_bytes(0)
        for retention_s in (0.0, 3_600.0):
            with opened(tmp_path / str(retention_s), segment_bytes_max=1) as log:
                log.append(payload(0), 1)
                log.append(payload(1), 1)
                journal_files(log.directory)[0].unlink()

                log.release(log.end, retention_s=retention_s)

                assert log.first == size

    def test_what_cannot_be_deleted_is_tried_again(self, tmp_path, monkeypatch):
        """A disk that refuses to delete costs room, not the caller."""
        with opened(tmp_path, segment_bytes_max=1) as log:
            log.append(payload(0), 1)
            log.append(payload(1), 1)

            def refuse(_path: Path, **_options: bool) -> None:
                raise OSError(30, "Read-only file system")

            with monkeypatch.context() as patch:
                patch.setattr(Path, "unlink", refuse)
                log.release(log.end)
            assert drain(log) == lines(0, 1)

            log.release(log.end)
            assert drain(log) == lines(1)


class TestLock:
    def test_a_second_opener_is_told_who_has_it(self, tmp_path):
        """Within one process too, a directory can be open once; the message names the process."""
        with opened(tmp_path) as log:
            with pytest.raises(DataDirInUse, match=rf"in use by process {os.getpid()}\b"):
                SegmentLog(tmp_path, segment_bytes_max=1, disk_free_bytes_min=0, is_synced=True)
            log.append(payload(0), 1)
            assert drain(log) == lines(0)

    def test_another_process_is_named(self, tmp_path):
        """The message names the process that holds the lock, not the one that asks."""
        child = run_child(
            """
            from segsrv.errors import DataDirInUse
            try:
                open_log()
            except DataDirInUse as error:
                print(error)
            """,
            tmp_path,
            is_locked=True,
        )

        assert f"process {os.getpid()};" in child

    def test_it_is_given_up_by_close(self, tmp_path):
        """After a close, and after a failed open, the directory can be opened again."""
        fill(tmp_path, range(1))
        with opened(tmp_path) as log:
            assert drain(log) == lines(0)

    def test_it_is_given_up_when_the_owner_dies(self, tmp_path):
        """A killed owner leaves no lock behind, only its events."""
        run_child("log = open_log(); log.append(payload(0), 1); os._exit(0)", tmp_path)

        with opened(tmp_path) as log:
            assert drain(log) == lines(0)


class TestAnotherServersDirectory:
    def test_a_directory_that_was_made_again_is_left_alone(self, tmp_path):
        """After it was removed and another log began there, the first one changes nothing in it."""
        directory = tmp_path / "w0"
        with opened(directory, segment_bytes_max=1) as first:
            first.append(payload(0), 1)
            first.append(payload(1), 1)
            shutil.rmtree(directory)
            with opened(directory, segment_bytes_max=1) as second:
                for number in range(3):
                    second.append(payload(number), 1)

                for _try in range(3):
                    with pytest.raises(JournalFault, match=r"its file|its lock"):
                        first.append(payload(9), 1)
                first.release(first.end)
                with pytest.raises(OSError, match="its lock was replaced"):
                    first.read(0, bytes_max=READ_BYTES)

                assert drain(second) == lines(0, 1, 2)
        with opened(directory) as log:
            assert drain(log) == lines(0, 1, 2)

    @pytest.mark.parametrize("segment_bytes_max", [1, 1 << 20], ids=["next_file", "same_file"])
    def test_a_lock_that_was_removed_ends_its_owner(self, tmp_path, monkeypatch, segment_bytes_max):
        """When somebody else could take the lock, nothing more is acknowledged."""
        monkeypatch.setattr(log_module, "CHECK_INTERVAL_S", 0.0)
        monkeypatch.setattr(log_module, "FOUND_INTERVAL_S", 0.0)
        with opened(tmp_path, segment_bytes_max=segment_bytes_max) as first:
            first.append(payload(0), 1)
            (tmp_path / "lock").unlink()
            with pytest.raises(JournalFault, match="No such file or directory"):
                first.append(payload(1), 1)

            with opened(tmp_path) as second:
                second.append(payload(2), 1)
                with pytest.raises(JournalFault, match="its lock was replaced"):
                    first.append(payload(3), 1)
                assert drain(second) == lines(0, 2)

    def test_a_file_that_both_have_open(self, tmp_path):
        """A log that lost its lock before its first write leaves the other's frames alone."""
        with opened(tmp_path) as first:
            (tmp_path / "lock").unlink()
            with opened(tmp_path) as second:
                assert second.segments == first.segments
                second.append(payload(0), 1)
                with pytest.raises(JournalFault, match="its lock was replaced"):
                    first.append(payload(1, size=50), 1)
                second.append(payload(2), 1)
                assert drain(second) == lines(0, 2)
        with opened(tmp_path) as log:
            assert drain(log) == lines(0, 2)
            assert log.damaged_frames == 0

    def test_a_file_that_is_not_ours_is_not_emptied(self, tmp_path):
        """Bytes under the next file's name were never written here, so they are kept."""
        with opened(tmp_path, segment_bytes_max=1) as log:
            log.append(payload(0), 1)
            in_the_way = tmp_path / f"{log.end:020d}.segment"
            in_the_way.write_bytes(b"events of another")

            log.append(payload(1), 1)
            assert in_the_way.read_bytes() == b"events of another"
            assert drain(log) == lines(0, 1)
            assert log.damaged_frames == 0


@pytest.mark.usefixtures("sync_way")
class TestFailedWrite:
    def test_a_partial_write_leaves_no_trace(self, tmp_path):
        """A write that the file size limit cut short is undone; the next one begins a new file."""
        printed = run_child(
            """
            import resource
            from segsrv.errors import JournalFault
            log = open_log()
            log.append(payload(0), 1)
            end = log.end
            resource.setrlimit(resource.RLIMIT_FSIZE, (end + 50, resource.RLIM_INFINITY))
            for _try in range(2):
                try:
                    log.append(payload(1, size=500), 1)
                except JournalFault as error:
                    print("refused", log.end == end, journal_files(log.directory)[0].stat().st_size)
            print(drain(log) == [payload(0)])
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            log.append(payload(2), 1)
            print(drain(log) == [payload(0), payload(2)], len(journal_files(log.directory)))
            """,
            tmp_path,
        )

        refused = f"refused True {START + frame_bytes(0)}"
        assert printed.splitlines() == [refused, refused, "True", "True 2"]
        with opened(tmp_path) as log:
            assert drain(log) == lines(0, 2)
            assert log.damaged_frames == 0

    def test_a_failed_sync_leaves_no_trace(self, tmp_path, monkeypatch):
        """After a failed sync the frame is gone and the file takes nothing more."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            with monkeypatch.context() as patch:
                refuse_syncs(patch)
                with pytest.raises(JournalFault, match="Input/output error"):
                    log.append(payload(1), 1)
            assert drain(log) == lines(0)

            log.append(payload(2), 1)
            assert drain(log) == lines(0, 2)
            assert len(journal_files(tmp_path)) == 2
        with opened(tmp_path) as log:
            assert drain(log) == lines(0, 2)

    def test_the_first_write_of_a_file_may_fail(self, tmp_path, monkeypatch):
        """A file that is still empty when its first write fails is used again from its start."""
        with opened(tmp_path) as log:
            for _try in range(3):
                with monkeypatch.context() as patch:
                    refuse_syncs(patch)
                    with pytest.raises(JournalFault):
                        log.append(payload(1), 1)
            log.append(payload(2), 1)

            assert drain(log) == lines(2)
            assert len(journal_files(tmp_path)) == 1

    def test_a_file_that_could_not_be_begun_is_begun_again(self, tmp_path, monkeypatch):
        """What a failure between making a file and using it left behind is in nobody's way."""
        with opened(tmp_path, segment_bytes_max=1) as log:
            log.append(payload(0), 1)
            for _try in range(2):
                with monkeypatch.context() as patch:
                    patch.setattr(os, "fsync", refuse)
                    with pytest.raises(JournalFault):
                        log.append(payload(1), 1)
            log.append(payload(2), 1)

            assert drain(log) == lines(0, 2)

    def test_a_leftover_that_could_not_be_cut_off_is_overwritten(self, tmp_path, monkeypatch):
        """When even the cutting off fails, a new file's refused first write is not found again."""
        with opened(tmp_path) as log:
            with monkeypatch.context() as patch:
                refuse_syncs(patch)
                patch.setattr(os, "ftruncate", refuse)
                with pytest.raises(JournalFault):
                    log.append(payload(1), 1)
            log.append(payload(2), 1)
            assert drain(log) == lines(2)
        with opened(tmp_path) as log:
            assert drain(log) == lines(2)

    @pytest.mark.parametrize(
        ("number", "kind"),
        [(errno.ENOSPC, JournalFull), (errno.EDQUOT, JournalFull), (5, JournalFault)],
    )
    def test_a_full_disk_is_told_from_a_broken_one(self, tmp_path, monkeypatch, number, kind):
        """What deleting something would help against is `journal_full`, all else a fault."""

        def refuse_number(*_arguments: object) -> None:
            raise OSError(number, os.strerror(number))

        with opened(tmp_path) as log:
            monkeypatch.setattr(os, "pwritev", refuse_number)
            with pytest.raises(kind) as caught:
                log.append(payload(1), 1)

            assert type(caught.value) is kind

    def test_memory_that_runs_out_leaves_no_trace(self, tmp_path, monkeypatch):
        """A write that another fault cut short is undone as well."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)

            def write_half(fd: int, parts: list[bytes], offset: int, _flags: int = 0) -> None:
                os.pwrite(fd, parts[0], offset)
                raise MemoryError

            with monkeypatch.context() as patch:
                patch.setattr("segsrv.journal.frame_writer.write_all_at", write_half)
                with pytest.raises(MemoryError):
                    log.append(payload(1), 1)

            log.append(payload(2), 1)
            assert drain(log) == lines(0, 2)
            assert log.damaged_frames == 0

    def test_too_little_free_space_is_refused_before_writing(self, tmp_path):
        """Below the free space limit nothing is written and the error says so."""
        with opened(tmp_path, disk_free_bytes_min=1 << 60) as log:
            with pytest.raises(JournalFull, match="bytes free, the limit is"):
                log.append(payload(0), 1)
            with pytest.raises(JournalFull):
                log.probe()

            assert log.end == 0

    def test_space_can_be_asked_for_at_any_time(self, tmp_path, monkeypatch):
        """Each question is put to the disk, right after a commit and after a failed one too."""
        with opened(tmp_path, disk_free_bytes_min=1) as log:
            log.append(payload(0), 1)
            log.check_space()
            with pytest.raises(JournalFull, match="bytes free, the limit is 1"):
                log.check_space(1 << 60)
            with monkeypatch.context() as patch:
                refuse_syncs(patch)
                with pytest.raises(JournalFault):
                    log.append(payload(1), 1)
            log.check_space()
            log.disk_free_bytes_min = 1 << 60
            with pytest.raises(JournalFull):
                log.check_space()

    def test_a_file_that_was_removed_takes_nothing(self, tmp_path, monkeypatch):
        """It is noticed in FOUND_INTERVAL_S that nobody will ever find what is written there."""
        now_s = 1_000.0
        monkeypatch.setattr(
            log_module, "time", SimpleNamespace(monotonic=lambda: now_s, time_ns=time.time_ns)
        )
        with opened(tmp_path / "w0") as log:
            log.append(payload(0), 1)
            shutil.rmtree(tmp_path / "w0")
            # As lost as all that was not delivered when the folder went.
            now_s += FOUND_INTERVAL_S * 0.9
            log.append(payload(1), 1)
            now_s += FOUND_INTERVAL_S * 0.2

            with pytest.raises(JournalFault, match="its file was removed"):
                log.append(payload(1), 1)
            with pytest.raises(JournalFault, match="No such file or directory"):
                log.append(payload(1), 1)

    def test_a_probe_is_no_event(self, tmp_path):
        """A probe moves the end and adds nothing to what is read."""
        with opened(tmp_path) as log:
            log.probe()
            log.append(payload(0), 1)
            log.probe()

            assert drain(log) == lines(0)
            assert log.end == START + frame_bytes(0) + 2 * OVERHEAD_BYTES
