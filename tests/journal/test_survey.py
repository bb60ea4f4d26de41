"""A journal seen from outside: all that is there is found, and what is wrong is named."""

import pytest

from segsrv.journal import facts, frame, segments, survey
from segsrv.journal.facts import Run
from segsrv.journal.reader import Stored
from segsrv.journal.survey import Fault, Survey
from tests.journal.segment_logs import fill, flip, opened, payload

SEGMENT_BYTES = 64 << 10


def filled(directory, numbers, *, size=20_000):
    """Fill small segments: about four frames each."""
    with opened(directory, segment_bytes_max=SEGMENT_BYTES) as log:
        for number in numbers:
            line = payload(number, size=size)
            run = Run("web", "flat", 1_000 + number, "track", [len(line)], [str(number)])
            log.append(line, 1, facts.join([facts.encode(run)]))


def numbers_of(items) -> list[int]:
    return [
        int(bytes(item.payload).split(b",")[0].removeprefix(b'{"n":'))
        for item in items
        if isinstance(item, Stored)
    ]


def faults_of(items) -> list[Fault]:
    return [item for item in items if isinstance(item, Fault)]


def files_of(directory):
    return [segment.path for segment in segments.find(directory).segments]


class TestSound:
    @pytest.mark.parametrize("window_bytes", [64, 30_000, 4 << 20])
    def test_every_frame_is_found(self, tmp_path, monkeypatch, window_bytes):
        """Over segments, whatever the windows that they are read in."""
        monkeypatch.setattr(survey, "WINDOW_BYTES", window_bytes)
        filled(tmp_path, range(20))
        assert len(files_of(tmp_path)) > 3

        items = list(Survey(tmp_path).frames())
        assert numbers_of(items) == list(range(20))
        assert faults_of(items) == []

    @pytest.mark.parametrize("hop_bytes", [32, 4_096])
    def test_summaries_say_the_same_without_the_lines(self, tmp_path, monkeypatch, hop_bytes):
        """Positions, counts and facts, from the headers alone."""
        monkeypatch.setattr(survey, "HOP_BYTES", hop_bytes)
        filled(tmp_path, range(20))
        seen = Survey(tmp_path)

        found = list(seen.summaries())
        assert [item.position for item in found] == [item.position for item in seen.frames()]
        assert [run.received_ms for item in found for run in item.runs] == [
            1_000 + number for number in range(20)
        ]
        assert found[-1].end == seen.end

    def test_a_part_of_it(self, tmp_path):
        """From a position on, up to another."""
        filled(tmp_path, range(20))
        seen = Survey(tmp_path)
        positions = [item.position for item in seen.frames()]

        assert numbers_of(seen.frames(positions[7])) == list(range(7, 20))
        assert numbers_of(seen.frames(positions[7], positions[12])) == list(range(7, 12))
        assert [item.position for item in seen.summaries(positions[7], positions[12])] == (
            positions[7:12]
        )

    def test_journals_of_the_first_releases(self, tmp_path):
        """Their frames have no facts and no trailer."""
        path = tmp_path / f"{0:020d}.journal"
        path.write_bytes(b"".join(version_1(number) for number in range(3)))

        seen = Survey(tmp_path)
        assert numbers_of(seen.frames()) == [0, 1, 2]
        assert [item.events for item in seen.summaries()] == [1, 1, 1]

    def test_an_empty_one(self, tmp_path):
        """A journal without an event ends where it begins."""
        with opened(tmp_path):
            seen = Survey(tmp_path)
            assert seen.first == seen.end
            assert list(seen.frames()) == []

    def test_nothing_is_locked_or_written(self, tmp_path):
        """The server that has it open goes on, and nothing in the folder changes."""
        with opened(tmp_path, segment_bytes_max=SEGMENT_BYTES) as log:
            log.append(payload(1), 1)
            before = {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())}
            seen = Survey(tmp_path)
            assert numbers_of(seen.frames()) == [1]
            assert {path: path.stat().st_mtime_ns for path in before} == before
            log.append(payload(2), 1)

    def test_what_a_server_deletes_meanwhile_is_read_to_its_end(self, tmp_path):
        """An open file stays; and what was gone before is no damage."""
        filled(tmp_path, range(20))
        seen = Survey(tmp_path)
        items = seen.frames()
        found = [next(items)]
        for path in files_of(tmp_path):
            path.unlink()
        found += items

        assert numbers_of(found) == list(range(20))
        assert list(seen.frames()) == []
        assert seen.gone == len(seen.segments)

    def test_what_is_deleted_while_it_is_listed(self, tmp_path, monkeypatch):
        """A file may go between the listing and the first look into it."""
        filled(tmp_path, range(20))
        find = segments.find

        def find_then_delete(directory):
            found = find(directory)
            for segment in found.segments:
                segment.path.unlink()
            return found

        monkeypatch.setattr(segments, "find", find_then_delete)
        seen = Survey(tmp_path)
        assert (seen.id, list(seen.frames()), list(seen.summaries())) == ("", [], [])


class TestDamage:
    @pytest.mark.parametrize("part", ["payload", "facts"])
    def test_a_damaged_frame_is_named_and_passed(self, tmp_path, part):
        """The others are read, and the position says which one it is."""
        filled(tmp_path, range(8))
        victim = list(Survey(tmp_path).frames())[2]
        first = files_of(tmp_path)[0]
        flip(first, victim.position + frame.HEADER_BYTES + (5_000 if part == "payload" else 3))

        items = list(Survey(tmp_path).frames())
        assert numbers_of(items) == [0, 1, 3, 4, 5, 6, 7]
        (fault,) = faults_of(items)
        assert (fault.position, fault.what) == (victim.position, survey.DAMAGED)

    def test_a_missing_file_is_named(self, tmp_path):
        """One that was removed from the middle."""
        filled(tmp_path, range(20))
        removed = files_of(tmp_path)[1]
        size = removed.stat().st_size
        removed.unlink()

        items = list(Survey(tmp_path).frames())
        (fault,) = faults_of(items)
        assert (fault.what, fault.bytes) == (survey.MISSING, size)
        assert len(numbers_of(items)) < 20

    def test_what_is_being_written_is_no_damage(self, tmp_path):
        """Half a commit at the very end."""
        fill(tmp_path, range(3))
        path = files_of(tmp_path)[-1]
        with path.open("ab") as file:
            file.write(frame.encode(payload(3), 1)[0] + payload(3)[:5])

        items = list(Survey(tmp_path).frames())
        assert numbers_of(items) == [0, 1, 2]
        assert [fault.what for fault in faults_of(items)] == [survey.UNFINISHED]

    def test_what_was_refused_is_not_there(self, tmp_path):
        """A whole frame behind the acknowledged end of a segment counts for nothing."""
        fill(tmp_path, range(3))
        with opened(tmp_path, position_min=Survey(tmp_path).end + 4_096) as log:
            log.append(payload(3), 1)
        head, tail = frame.encode(payload(99), 1)
        with files_of(tmp_path)[0].open("ab") as file:
            file.write(head + payload(99) + tail)

        items = list(Survey(tmp_path).frames())
        assert numbers_of(items) == list(range(4))
        assert faults_of(items) == []

    def test_every_byte_flipped_and_every_length(self, tmp_path):
        """Nothing raises, and every frame that is whole is found."""
        fill(tmp_path, range(3))
        (path,) = files_of(tmp_path)
        data = path.read_bytes()
        for offset in range(len(data)):
            flip(path, offset)
            found = numbers_of(Survey(tmp_path).frames())
            assert len(found) >= 2
            assert set(found) <= {0, 1, 2}
            assert sum(item.events for item in Survey(tmp_path).summaries()) >= 2
            path.write_bytes(data)
        for length in range(len(data)):
            path.write_bytes(data[:length])
            found = numbers_of(Survey(tmp_path).frames())
            assert found == list(range(len(found)))


def version_1(number) -> bytes:
    import struct
    import zlib

    line = payload(number)
    head = struct.pack("<4sIII", b"\x00SJ1", len(line), 1, zlib.crc32(line))
    return head + struct.pack("<I", zlib.crc32(head)) + line
