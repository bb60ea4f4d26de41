"""Frames: what is written is what is read, and damage is told from what is whole."""

import itertools
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segsrv.journal import frame
from segsrv.journal.frame import HEADER_BYTES, MAGIC, Frame, Gap

# JSON text holds no NUL, so neither do these payloads; a magic without it may well occur.
PAYLOADS = st.lists(st.binary(max_size=64).map(lambda data: data.replace(b"\0", b"SJ1")))


def framed(payload: bytes, events: int = 1) -> bytes:
    return frame.encode(payload, events) + payload


class TestRoundTrip:
    @given(PAYLOADS)
    def test_scan_returns_what_was_encoded(self, payloads):
        """Frames written one after the other are found again, whole and in order."""
        buffer = b"".join(
            framed(payload, number + 1) for number, payload in zip(itertools.count(), payloads)
        )

        found = list(frame.scan(buffer))

        assert [buffer[part.payload_start : part.end] for part in found] == payloads
        assert [part.events for part in found] == list(range(1, len(payloads) + 1))
        assert not any(part.is_damaged for part in found)
        assert (found[-1].end if found else 0) == len(buffer)

    def test_layout_is_the_documented_one(self):
        """The bytes on disk are as the module's text promises, so old journals stay readable."""
        head = struct.pack("<4sIII", b"\x00SJ1", 3, 7, zlib.crc32(b"abc"))

        assert frame.encode(b"abc", 7) == head + struct.pack("<I", zlib.crc32(head))


class TestTornTail:
    @pytest.mark.parametrize("cut", range(1, len(framed(b'{"a":1}\n'))))
    def test_a_frame_cut_anywhere_is_not_found(self, cut):
        """However few bytes of the last frame are missing, it is left out and the first is kept."""
        whole = framed(b"first\n")

        found = list(frame.scan(whole + framed(b'{"a":1}\n')[:-cut]))

        assert found == [Frame(0, HEADER_BYTES, len(whole), 1, is_damaged=False)]

    def test_zeros_after_the_last_frame_are_no_frame(self):
        """A tail that the file system filled with zeros ends the scan."""
        whole = framed(b"first\n")

        assert [part.end for part in frame.scan(whole + bytes(100))] == [len(whole)]


class TestDamage:
    @pytest.mark.parametrize("offset", range(HEADER_BYTES))
    def test_a_flipped_header_byte_is_a_gap_up_to_the_next_frame(self, offset):
        """Any damaged header byte costs its own frame and no other."""
        first, second, third = framed(b"1\n"), bytearray(framed(b"22\n")), framed(b"333\n")
        second[offset] ^= 0xFF
        buffer = first + bytes(second) + third

        found = list(frame.scan(buffer))

        assert found[1] == Gap(len(first), len(first) + len(second))
        assert [buffer[f.payload_start : f.end] for f in found if isinstance(f, Frame)] == [
            b"1\n",
            b"333\n",
        ]

    @pytest.mark.parametrize("offset", [HEADER_BYTES, HEADER_BYTES + 1, HEADER_BYTES + 2])
    def test_a_flipped_payload_byte_marks_its_frame(self, offset):
        """A damaged payload is found by its CRC and stepped over exactly."""
        first, second, third = framed(b"1\n"), bytearray(framed(b"22\n")), framed(b"333\n")
        second[offset] ^= 0xFF

        found = list(frame.scan(first + bytes(second) + third))

        assert [part.is_damaged for part in found] == [False, True, False]

    def test_a_magic_without_a_sound_header_is_passed_over(self):
        """Stray magic bytes in a damaged stretch do not pass for a frame."""
        third = framed(b"3\n")
        garbage = b"??" + MAGIC + b"??" + MAGIC * 3 + b"!"

        found = list(frame.scan(garbage + third))

        assert found[0] == Gap(0, len(garbage))
        assert found[1].end == len(garbage) + len(third)

    @given(st.binary(max_size=200))
    def test_any_bytes_can_be_scanned(self, data):
        """Bytes of any kind before a frame neither raise nor hide it."""
        last = framed(b"last\n")
        buffer = data.replace(MAGIC, b"") + last

        assert list(frame.scan(buffer))[-1].end == len(buffer)
