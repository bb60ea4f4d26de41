"""Room that is made ahead in the newest file: whoever reads the journal never sees it."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from segsrv.journal import frame, survey
from segsrv.journal.frame_writer import ROOM_BYTES, ROOM_FRAME_BYTES_MAX
from segsrv.journal.reader import Reader
from segsrv.journal.recovery import identify
from tests.journal.segment_logs import (
    READ_BYTES,
    SEGMENT_START,
    cut_off,
    drain,
    frame_bytes,
    journal_files,
    opened,
    payload,
    set_aside,
)


def file_bytes(directory: Path) -> list[int]:
    return [path.stat().st_size for path in journal_files(directory)]


def with_last_zeros(count: int) -> bytes:
    """Return a payload whose frame ends with *count* zeros."""
    numbers = (payload(number) for number in range(1 << 20))
    return next(line for line in numbers if frame.encode(line, 1)[1].endswith(bytes(count)))


class TestMaking:
    def test_small_frames_share_it(self, tmp_path):
        """The first one makes the file longer, and those behind it do not."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            sizes = file_bytes(tmp_path)
            assert sizes == [log.end + ROOM_BYTES]
            while log.end <= sizes[0] - frame_bytes(0, size=10_000):
                log.append(payload(0, size=10_000), 1)
                assert file_bytes(tmp_path) == sizes
            log.append(payload(0, size=10_000), 1)
            assert file_bytes(tmp_path) == [log.end + ROOM_BYTES]

    def test_a_large_frame_makes_none(self, tmp_path):
        """It is as long as it is, and goes over the room that is there."""
        with opened(tmp_path) as log:
            log.append(payload(0, size=ROOM_FRAME_BYTES_MAX), 1)
            assert file_bytes(tmp_path) == [log.end]
            log.append(payload(1), 1)
            log.append(payload(2, size=2 * ROOM_BYTES), 1)
            assert file_bytes(tmp_path) == [log.end]
            assert len(drain(log)) == 3

    def test_it_ends_where_the_file_does(self, tmp_path):
        """A file gets no longer than it would be, so that room is not given up at once."""
        with opened(tmp_path, segment_bytes_max=1_000) as log:
            log.append(payload(0), 1)
            assert file_bytes(tmp_path) == [1_000]

    def test_none_is_made_where_nothing_is_synced(self, tmp_path):
        """A write that waits for nothing gains nothing from it."""
        with opened(tmp_path) as log:
            log.writer.is_synced = False
            log.append(payload(0), 1)
            assert file_bytes(tmp_path) == [log.end]

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_a_disk_with_space_for_the_frame_alone_takes_it(self, tmp_path, monkeypatch, code):
        """Events are not refused for room that they can do without."""
        write = os.pwritev

        def write_little(fd, parts, offset, flags=0):
            if sum(map(len, parts)) > ROOM_BYTES:
                write(fd, parts[:1], offset)
                raise OSError(code, os.strerror(code))
            return write(fd, parts, offset, flags)

        monkeypatch.setattr(os, "pwritev", write_little)
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            log.append(payload(1), 1)
            assert drain(log) == [payload(0), payload(1)]
            assert file_bytes(tmp_path) == [log.end]


class TestGivingBack:
    def test_a_sealed_file_and_a_closed_one_have_none(self, tmp_path):
        """Each ends behind its last frame."""
        with opened(tmp_path, segment_bytes_max=2_000) as log:
            while len(journal_files(tmp_path)) < 3:
                log.append(payload(0, size=700), 1)
            ends = [segment.end - segment.base for segment in log.segments]
            assert file_bytes(tmp_path)[:2] == ends[:2]
        assert file_bytes(tmp_path) == ends

    def test_a_file_that_was_cut_is_not_made_longer(self, tmp_path):
        """What somebody cut off does not come back as zeros."""
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            os.truncate(journal_files(tmp_path)[0], 70)
        assert file_bytes(tmp_path) == [70]


@pytest.fixture(params=[0, 1, 2], ids=lambda count: f"{count}_zeros")
def killed(tmp_path, request):
    """Return a journal whose server was killed, what it holds, and its end.

    The last frame ends with so many zeros itself.
    """
    with opened(tmp_path / "running") as log:
        lines = [payload(0), with_last_zeros(request.param)]
        for line in lines:
            log.append(line, 1)
        shutil.copytree(tmp_path / "running", tmp_path / "killed")
        end = log.end
    assert file_bytes(tmp_path / "killed")[0] > end
    return tmp_path / "killed", lines, end


class TestAfterAKill:
    def test_a_start_cuts_it_off(self, killed):
        """Nothing is lost, and nothing counted as torn or damaged."""
        directory, lines, end = killed
        with opened(directory) as log:
            assert drain(log) == lines
            assert log.end == end
            assert (log.torn_tails, log.damaged_frames) == (0, 0)
        assert file_bytes(directory)[0] == end
        assert set_aside(directory) + cut_off(directory) == []

    def test_a_look_from_outside_ends_before_it(self, killed):
        """What the command line and a copy's owner see ends behind the last frame."""
        directory, lines, end = killed
        seen = survey.Survey(directory)
        assert [bytes(part.payload) for part in seen.frames()] == lines
        assert sum(part.events for part in seen.summaries()) == len(lines)
        assert seen.end == seen.bytes == end
        assert identify(directory).end == end
        assert Reader(directory).read(0, bytes_max=READ_BYTES).lines == b"".join(lines)

    @pytest.mark.parametrize("missing", range(1, frame_bytes(2) - 4))
    def test_a_frame_that_came_in_part_is_torn(self, tmp_path, missing):
        """Whatever of it is there before the zeros is kept aside, or makes up a whole frame."""
        with opened(tmp_path / "running") as log:
            log.append(payload(0), 1)
            start = log.end
            log.append(payload(2), 1)
            end = log.end
            shutil.copytree(tmp_path / "running", tmp_path / "killed")
        file = journal_files(tmp_path / "killed")[0]
        data = bytearray(file.read_bytes())
        whole = bytes(data[start:end])
        data[end - missing : end] = bytes(missing)
        torn = bytes(data[start:end]).rstrip(b"\0")
        file.write_bytes(data)

        with opened(tmp_path / "killed") as log:
            assert drain(log) == [payload(0)]
            assert log.damaged_frames == 0
        kept = cut_off(tmp_path / "killed")
        assert [path.read_bytes() for path in kept] == [torn] * (torn != whole)

    def test_a_file_with_a_header_alone_goes_on(self, tmp_path):
        """Of one that got no frame, only the header is left."""
        with opened(tmp_path):
            pass
        with journal_files(tmp_path)[0].open("ab") as file:
            file.write(bytes(ROOM_BYTES))
        assert survey.Survey(tmp_path).end == 0
        with opened(tmp_path) as log:
            log.append(payload(0), 1)
            assert drain(log) == [payload(0)]
        assert file_bytes(tmp_path) == [SEGMENT_START + frame_bytes(0)]
