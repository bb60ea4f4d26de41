"""Every byte of a small journal flipped, and every file of it cut at every length.

The journal has a segment of the first releases and three of today, the last of which is checked
when it is opened.
"""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from segsrv.journal import facts, frame
from segsrv.journal.facts import Run
from segsrv.journal.segments import HEADER_BYTES as START
from tests.journal.old_journals import framed_1, write_old_segment
from tests.journal.segment_logs import cut_off, drain, flip, opened, set_aside

OLD = [b"old%d\n" % number for number in range(3)]
NEW = [b"new%d\n" % number for number in range(6)]
SEGMENT_BYTES_MAX = 200


def facts_of(line: bytes) -> bytes:
    return facts.join([facts.encode(Run("k", "flat", 1, "track", [len(line)], ["id"]))])


def build(directory: Path) -> None:
    write_old_segment(directory, 0, OLD)
    with opened(directory, segment_bytes_max=SEGMENT_BYTES_MAX) as log:
        for line in NEW:
            log.append(line, 1, facts_of(line))


class Expected:
    """Which byte of which file belongs to which line, by the documented layout."""

    def __init__(self, directory: Path) -> None:
        self.files = sorted([*directory.glob("*.journal"), *directory.glob("*.segment")])
        self.frames: dict[str, list[tuple[int, int, bytes]]] = {}
        old, *new = self.files
        sizes = [len(framed_1(line)) for line in OLD]
        starts = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
        self.frames[old.name] = [
            (start, end, line) for (start, end), line in zip(pairwise(starts), OLD, strict=True)
        ]
        lines = iter(NEW)
        for path in new:
            start, held = START, []
            while start < path.stat().st_size:
                line = next(lines)
                end = start + frame.frame_bytes(line, facts_of(line))
                held.append((start, end, line))
                start = end
            self.frames[path.name] = held
        assert next(lines, None) is None

    def cost_of_flip(self, name: str, offset: int) -> list[bytes]:
        for start, end, line in self.frames[name]:
            if name.endswith(".journal") and start <= offset < end:
                return [line]
            if start + frame.HEADER_BYTES <= offset < end - frame.TRAILER_BYTES:
                return [line]
        return []

    def cost_of_cut(self, name: str, size: int) -> list[bytes]:
        return [line for _start, end, line in self.frames[name] if end > size]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sound")
    build(directory)
    return directory


def check(directory: Path, caplog, lost: list[bytes]) -> int:
    """Open a damaged journal; return how many pieces were found, each counted and told once."""
    caplog.clear()
    with opened(directory) as log:
        found = drain(log)
        assert found == [line for line in OLD + NEW if line not in lost]
        assert drain(log) == found, "the second reading is as the first"
        pieces = log.damaged_frames + log.torn_tails
        assert len(caplog.records) == pieces
        log.append(b"later\n", 1)
        assert drain(log) == [*found, b"later\n"]
    return pieces


def case_of(sound: Path, tmp_path: Path, number: int) -> Path:
    directory = tmp_path / str(number)
    shutil.copytree(sound, directory)
    return directory


class TestEveryByte:
    @pytest.mark.parametrize("index", range(4))
    def test_flipped(self, sound, tmp_path, caplog, index):
        """A flipped byte costs at most its own commit, which is kept beside and counted."""
        expected = Expected(sound)
        assert len(expected.files) == 4
        file = expected.files[index]
        for offset in range(file.stat().st_size):
            directory = case_of(sound, tmp_path, offset)
            flip(directory / file.name, offset)

            lost = expected.cost_of_flip(file.name, offset)
            pieces = check(directory, caplog, lost)
            assert pieces or not lost

            kept = set_aside(directory) + cut_off(directory)
            assert len(kept) == pieces <= 1
            if pieces:
                start = int(kept[0].name.rpartition("-")[2])
                data = (sound / file.name).read_bytes()[start:][: kept[0].stat().st_size]
                differing = [
                    start + at
                    for at, (one, other) in enumerate(zip(data, kept[0].read_bytes(), strict=True))
                    if one != other
                ]
                assert differing == [offset]

    @pytest.mark.parametrize("index", range(4))
    def test_cut(self, sound, tmp_path, caplog, index):
        """A file cut at any length costs the commits that are no longer whole in it."""
        expected = Expected(sound)
        file = expected.files[index]
        whole = file.read_bytes()
        for size in range(len(whole)):
            directory = case_of(sound, tmp_path, size)
            with (directory / file.name).open("r+b") as opened_file:
                opened_file.truncate(size)
            lost = expected.cost_of_cut(file.name, size)

            pieces = check(directory, caplog, lost)

            starts = [start for start, _end, _line in expected.frames[file.name]]
            begun = [start for start in [0, *starts] if start <= size]
            kept = set_aside(directory) + cut_off(directory)
            if index == 3 and size in (0, 1, *starts, *(start + 1 for start in starts)):
                # Also where a zero follows, with which a frame begins.
                assert pieces == 0, "a newest file that ends between two commits looks whole"
            else:
                assert pieces == 1
                # No event is lost with a part of an older segment's header.
                rest = b"" if 0 < index < 3 and size < START else whole[begun[-1] : size]
                if index == 3 and size > START:
                    rest = rest.rstrip(b"\0")
                assert b"".join(path.read_bytes() for path in kept) == rest


class TestOldJournal:
    def test_every_byte_of_the_newest_file_flipped(self, tmp_path, caplog):
        """A flipped bit in the header of the last commit is damage: kept and counted."""
        size = sum(len(framed_1(line)) for line in OLD)
        for offset in range(size):
            directory = tmp_path / str(offset)
            write_old_segment(directory, 0, OLD)
            flip(next(directory.glob("*.journal")), offset)
            lost = OLD[offset * len(OLD) // size]
            caplog.clear()

            with opened(directory) as log:
                assert drain(log) == [line for line in OLD if line != lost]
                assert (log.damaged_frames, log.torn_tails) == (1, 0)
            assert len(caplog.records) == len(set_aside(directory)) == 1

    def test_it_is_read_beside_new_segments(self, tmp_path):
        """Positions go on, and nothing is known of old events but their lines."""
        end = write_old_segment(tmp_path, 0, OLD)
        with opened(tmp_path) as log:
            assert log.end == end
            log.append(NEW[0], 1, facts_of(NEW[0]))
            journal_id = log.id

            chunk = log.read(0, bytes_max=1 << 20)

            assert chunk.lines == b"".join([*OLD, NEW[0]])
            known = [fact.event_id for fact in facts.each(list(chunk.runs))]
            assert known == ["", "", "", "id"]
        with opened(tmp_path) as log:
            assert log.id == journal_id

    def test_the_id_lasts_before_anything_is_written(self, tmp_path):
        """A cursor in an old journal names an id that the next start finds again."""
        write_old_segment(tmp_path, 0, OLD)
        with opened(tmp_path) as log:
            journal_id = log.id
        with opened(tmp_path) as log:
            assert log.id == journal_id
            assert drain(log) == OLD
