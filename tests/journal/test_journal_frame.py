"""Frames: what is written is what is read, and damage is told from what is whole."""

import itertools
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segsrv.journal import frame
from segsrv.journal.frame import (
    BLOCK_BYTES,
    HEADER_BYTES,
    HEADER_BYTES_1,
    MAGIC,
    MAGIC_1,
    MAGIC_END,
    OVERHEAD_BYTES,
    TRAILER_BYTES,
    Frame,
    Gap,
)
from tests.journal.old_journals import framed_1

# JSON text holds no NUL, so neither do these payloads; a magic without it may well occur.
TEXTS = st.binary(max_size=64).map(lambda data: data.replace(b"\0", b"SJ2"))
FACTS = b"[[1]]"


def framed(payload: bytes, events: int = 1, facts: bytes = FACTS) -> bytes:
    header, trailer = frame.encode(payload, events, facts)
    return header + facts + payload + trailer


def payloads(buffer: bytes) -> list[bytes]:
    return [
        buffer[part.payload_start : part.payload_end]
        for part in frame.scan(buffer)
        if isinstance(part, Frame) and not part.is_damaged
    ]


def flipped(data: bytes, offset: int) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 0xFF
    return bytes(changed)


class TestRoundTrip:
    @given(st.lists(st.tuples(TEXTS, TEXTS)))
    def test_scan_returns_what_was_encoded(self, contents):
        """Frames written one after the other are found again, whole and in order."""
        buffer = b"".join(
            framed(payload, number + 1, facts)
            for number, (payload, facts) in zip(itertools.count(), contents)
        )

        found = list(frame.scan(buffer))

        assert payloads(buffer) == [payload for payload, _facts in contents]
        assert [buffer[part.facts_start : part.payload_start] for part in found] == [
            facts for _payload, facts in contents
        ]
        assert [part.events for part in found] == list(range(1, len(contents) + 1))
        assert (found[-1].end if found else 0) == len(buffer)

    def test_layout_is_the_documented_one(self):
        """The bytes on disk are as the module's text promises, so journals stay readable."""
        fields = struct.pack("<IIII", 2, 3, 7, zlib.crc32(b"[]abc"))
        head, tail = b"\x00SJ2" + fields, b"\x00SJ3" + fields

        assert frame.encode(b"abc", 7, b"[]") == (
            head + struct.pack("<I", zlib.crc32(head)),
            tail + struct.pack("<I", zlib.crc32(tail)),
        )
        assert frame.frame_bytes(b"abc", b"[]") == OVERHEAD_BYTES + 5

    @given(st.lists(TEXTS))
    def test_frames_of_the_first_releases_are_read(self, contents):
        """What an older release wrote is found, without facts."""
        buffer = b"".join(framed_1(payload, 3) for payload in contents)

        assert payloads(buffer) == contents
        assert all(part.events == 3 for part in frame.scan(buffer))
        assert all(part.facts_start == part.payload_start for part in frame.scan(buffer))


class TestTornTail:
    @pytest.mark.parametrize("cut", range(1, len(framed(b'{"a":1}\n'))))
    def test_a_frame_cut_anywhere_is_not_found(self, cut):
        """However few bytes of the last frame are missing, it is left out, and judged as torn."""
        whole, last = framed(b"first\n"), framed(b'{"a":1}\n')[:-cut]

        assert [part.end for part in frame.scan(whole + last)] == [len(whole)]
        assert frame.is_torn(last, len(whole))

    @pytest.mark.parametrize("size", [1, 100, BLOCK_BYTES, 3 * BLOCK_BYTES])
    def test_zeros_after_the_last_frame_are_torn(self, size):
        """A tail that the file system filled with zeros ends the scan."""
        whole = framed(b"first\n")

        assert [part.end for part in frame.scan(whole + bytes(size))] == [len(whole)]
        assert frame.is_torn(bytes(size), len(whole))

    @pytest.mark.parametrize("lost", range(4))
    @pytest.mark.parametrize("position", [0, 1, 100, BLOCK_BYTES - 1])
    def test_a_frame_that_lost_a_block_is_torn(self, lost, position):
        """Any block of 4 KiB that a power cut kept from the disk gives the last frame away."""
        whole = framed(b"x" * (3 * BLOCK_BYTES) + b"\n")
        start = max(lost * BLOCK_BYTES - position, 0)
        end = min((lost + 1) * BLOCK_BYTES - position, len(whole))
        torn = whole[:start] + bytes(end - start) + whole[end:]

        # A block that ends with the zero that a magic begins with is none that was lost.
        assert frame.is_torn(torn, position) == (torn != whole)
        assert payloads(torn) == [] or torn == whole

    @pytest.mark.parametrize("offset", [HEADER_BYTES, HEADER_BYTES + 9, HEADER_BYTES + 90])
    def test_a_flipped_byte_is_not_torn(self, offset):
        """A last frame that is all there but for one byte was damaged."""
        assert not frame.is_torn(flipped(framed(b"x" * 100 + b"\n"), offset), 64)


class TestDamage:
    @pytest.mark.parametrize("offset", [*range(HEADER_BYTES), *range(-TRAILER_BYTES, 0)])
    @pytest.mark.parametrize("number", range(3))
    def test_a_flipped_byte_of_header_or_trailer_costs_nothing(self, offset, number):
        """Either of the two says where the frame is; also for the last frame of a file."""
        frames = [framed(b"1\n"), framed(b"22\n"), framed(b"333\n")]
        frames[number] = flipped(frames[number], offset)

        assert payloads(b"".join(frames)) == [b"1\n", b"22\n", b"333\n"]
        assert len(list(frame.scan(b"".join(frames)))) == 3

    @pytest.mark.parametrize("number", range(3))
    def test_without_header_and_trailer_it_is_a_gap_up_to_the_next_frame(self, number):
        """A frame whose ends are both damaged costs itself and no other."""
        frames = [framed(b"1\n"), framed(b"22\n"), framed(b"333\n"), framed(b"4\n")]
        start = sum(map(len, frames[:number]))
        frames[number] = flipped(flipped(frames[number], 7), -7)

        found = list(frame.scan(b"".join(frames)))

        assert found[number] == Gap(start, start + len(frames[number]))
        assert len(found) == 4
        assert len(payloads(b"".join(frames))) == 3

    def test_frames_behind_a_gap_may_have_lost_their_header(self):
        """What lies between two damaged headers is found by the trailers."""
        first, second = flipped(flipped(framed(b"1\n"), 0), -1), flipped(framed(b"22\n"), 3)

        assert next(iter(frame.scan(first + second))) == Gap(0, len(first))
        assert payloads(first + second) == [b"22\n"]

    @pytest.mark.parametrize("offset", range(HEADER_BYTES, len(framed(b"22\n")) - TRAILER_BYTES))
    def test_a_flipped_content_byte_marks_its_frame(self, offset):
        """Damaged facts or lines are found by the CRC and stepped over exactly."""
        buffer = framed(b"1\n") + flipped(framed(b"22\n"), offset) + framed(b"333\n")

        assert [part.is_damaged for part in frame.scan(buffer)] == [False, True, False]

    @pytest.mark.parametrize("offset", range(HEADER_BYTES_1))
    def test_a_flipped_header_byte_of_the_first_releases(self, offset):
        """Without a trailer a damaged header costs its own frame."""
        first, second, third = framed_1(b"1\n"), framed_1(b"22\n"), framed_1(b"333\n")
        buffer = first + flipped(second, offset) + third

        assert list(frame.scan(buffer))[1] == Gap(len(first), len(first) + len(second))
        assert payloads(buffer) == [b"1\n", b"333\n"]

    def test_a_magic_without_a_sound_header_is_passed_over(self):
        """Stray magic bytes in a damaged stretch do not pass for a frame."""
        third = framed(b"3\n")
        garbage = b"??" + MAGIC + b"??" + MAGIC * 3 + MAGIC_END * 2 + b"!" + MAGIC_1

        found = list(frame.scan(garbage + third))

        assert found[0] == Gap(0, len(garbage))
        assert found[1].end == len(garbage) + len(third)

    def test_a_trailer_of_a_frame_that_began_before_is_passed_over(self):
        """A trailer that a damaged stretch ends with does not reach into the frame before."""
        buffer = framed(b"1\n") + framed(b"22\n")[10:] + framed(b"3\n")

        assert payloads(buffer) == [b"1\n", b"3\n"]

    @given(st.binary(max_size=200))
    def test_any_bytes_can_be_scanned(self, data):
        """Bytes of any kind before a frame neither raise nor hide it."""
        last = framed(b"last\n")
        buffer = data.replace(b"\0SJ", b"") + last

        assert list(frame.scan(buffer))[-1].end == len(buffer)
        assert payloads(buffer)[-1:] == [b"last\n"]
        frame.is_torn(data, 17)
