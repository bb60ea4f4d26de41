"""Files of two slots: what was saved is there, whatever happens to half of it."""

import errno
import logging
import os
import shutil
import stat

import pytest

from segsrv.journal import slots
from segsrv.journal.slots import KEPT_FILES, OVERHEAD_BYTES, SlotFile, Slots, SlotTooSmall
from tests.disks import fill, small_disk

SLOT_BYTES = 64


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "file.cursor"


def save(path, *payloads: bytes) -> None:
    file = SlotFile(path, slot_bytes=SLOT_BYTES)
    for payload in payloads:
        file.save(payload)
    file.close()


def load(path) -> Slots:
    file = SlotFile(path, slot_bytes=SLOT_BYTES)
    try:
        found = file.load()
        assert file.slots == found
        return found
    finally:
        file.close()


def kept(path) -> list[bytes]:
    return [part.read_bytes() for part in sorted(path.parent.glob("*.damaged-*"))]


class TestSaves:
    def test_the_newest_and_the_one_before_are_kept(self, path):
        """A restart finds the last two payloads, and the next save goes over the older."""
        assert load(path) == Slots()
        expected = [None]
        for number in range(5):
            expected.append(b"%d" % number)
            save(path, expected[-1])
            assert load(path) == Slots(newest=expected[-1], older=expected[-2])

    def test_an_empty_payload_is_one(self, path):
        """Nothing saved is told from an empty payload."""
        save(path, b"")
        assert load(path) == Slots(newest=b"")

    def test_the_file_never_changes_its_size(self, path):
        """It is made in full by the first load, with the mode that was asked for."""
        file = SlotFile(path, slot_bytes=SLOT_BYTES, file_mode=0o600)
        file.load()
        assert path.stat().st_size == 2 * SLOT_BYTES
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for number in range(3):
            file.save(b"x" * (number + 1))
            assert path.stat().st_size == 2 * SLOT_BYTES
        file.close()

    def test_a_payload_that_is_too_large(self, path):
        """The error names the size and the limit, and what was saved stays."""
        limit = SLOT_BYTES - OVERHEAD_BYTES
        save(path, b"x" * limit)
        with pytest.raises(SlotTooSmall, match=rf"{limit + 1} bytes, the limit is {limit}"):
            save(path, b"x" * (limit + 1))
        assert load(path).newest == b"x" * limit

    @pytest.mark.parametrize("step", ["pwrite", "fdatasync"])
    def test_a_failed_save_leaves_the_newest(self, path, monkeypatch, step):
        """A disk that refuses takes the older slot at most, and the next save succeeds."""
        save(path, b"1", b"2")
        file = SlotFile(path, slot_bytes=SLOT_BYTES)
        file.load()

        def refuse(*_arguments: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        for _try in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(os, step, refuse)
                with pytest.raises(OSError, match="Input/output"):
                    file.save(b"3")
            assert file.slots == Slots(newest=b"2")
            assert b"2" in (load(path).newest, load(path).older)
        file.save(b"4")
        file.close()

        assert load(path) == Slots(newest=b"4", older=b"2")

    def test_a_short_write_is_completed(self, path, monkeypatch):
        """The kernel may take a slot in several pieces."""
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
        save(path, b"0123456789", b"abcdefghij")
        assert load(path) == Slots(newest=b"abcdefghij", older=b"0123456789")

    def test_a_file_that_was_removed_is_made_again(self, path):
        """When somebody removes the folder below the server, the next save is found again."""
        file = SlotFile(path, slot_bytes=SLOT_BYTES)
        file.save(b"1")
        shutil.rmtree(path.parent)
        file.save(b"2")
        file.close()
        assert load(path) == Slots(newest=b"2", older=b"1")

    def test_tools_change_nothing(self, path):
        """Reading beside the server neither makes nor mends a file."""
        assert slots.read(path, slot_bytes=SLOT_BYTES) == Slots()
        assert not path.exists()
        save(path, b"1", b"2")
        os.truncate(path, SLOT_BYTES)
        assert slots.read(path, slot_bytes=SLOT_BYTES) == Slots(newest=b"2", damaged=1)
        assert path.stat().st_size == SLOT_BYTES


class TestDamage:
    def test_every_byte_flipped(self, path):
        """One damaged byte costs one slot at most, and the file goes on being used."""
        save(path, b"older", b"newest")
        whole = path.read_bytes()
        losses = 0
        for offset in range(len(whole)):
            data = bytearray(whole)
            data[offset] ^= 0xFF
            path.write_bytes(data)
            found = load(path)
            assert found.damaged in (0, 1)
            if found.damaged:
                losses += 1
                assert (found.newest, found.older) in ((b"older", None), (b"newest", None))
            else:
                assert found == Slots(newest=b"newest", older=b"older")
            save(path, b"next")
            assert load(path) == Slots(newest=b"next", older=found.newest)
        assert losses == 2 * OVERHEAD_BYTES + len(b"oldernewest")

    def test_every_truncation(self, path, caplog):
        """A file cut anywhere keeps its whole slots, is kept aside as it was, and made again."""
        save(path, b"older", b"newest")
        whole = path.read_bytes()
        for size in range(len(whole)):
            for old in path.parent.glob("*.damaged-*"):
                old.unlink()
            path.write_bytes(whole[:size])
            caplog.clear()
            found = load(path)
            assert {found.newest, found.older} <= {b"older", b"newest", None}
            assert len(caplog.records) <= 2
            if size:
                assert kept(path) == [whole[:size]]
            assert path.stat().st_size == 2 * SLOT_BYTES
            save(path, b"next")
            assert load(path) == Slots(newest=b"next", older=found.newest)

    @pytest.mark.parametrize(
        "data", [bytes(2 * SLOT_BYTES), b"{}" * SLOT_BYTES, b'{"start":1}', bytes(2 << 20)]
    )
    def test_something_else_is_kept_aside(self, path, data):
        """A file that was never one of slots is kept, up to a limit, and counts as damaged."""
        path.parent.mkdir()
        path.write_bytes(data)
        assert load(path) == Slots(damaged=2)
        assert kept(path) == [data[: slots.KEPT_BYTES_MAX]]
        save(path, b"1", b"2")
        assert load(path) == Slots(newest=b"2", older=b"1")

    def test_only_so_many_are_kept(self, path):
        """The oldest copies of damaged files go first."""
        path.parent.mkdir()
        for number in range(2 * KEPT_FILES):
            path.write_bytes(b"%03d" % number)
            load(path)
        assert sorted(kept(path)) == [b"%03d" % n for n in range(KEPT_FILES, 2 * KEPT_FILES)]

    def test_a_later_version_is_told_by_its_number(self, path, caplog):
        """A file from a later release is damaged for this one, and kept."""
        save(path, b"1", b"2")
        data = bytearray(path.read_bytes())
        for offset in (0, SLOT_BYTES):
            data[offset + len(slots.MAGIC)] = 7
        path.write_bytes(data)
        with caplog.at_level(logging.ERROR):
            assert load(path) == Slots(damaged=2)
        assert "has version 7, expected 1" in caplog.text
        assert kept(path) == [bytes(data)]

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
    def test_what_is_no_file_is_moved_aside(self, path, make):
        """A pipe hangs nothing, and neither it nor a folder keeps the server from starting."""
        path.parent.mkdir()
        make(path)
        assert slots.read(path).damaged == 2
        assert load(path) == Slots(damaged=2)
        save(path, b"1")
        assert load(path) == Slots(newest=b"1")
        assert path.with_name(path.name + ".damaged-1").exists()


class TestFullDisk:
    @pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
    def test_a_save_needs_no_room(self, tmp_path, kind):
        """With the last byte of the disk taken, payloads of any size are saved, and synced."""
        with small_disk(tmp_path, kind) as disk:
            file = SlotFile(disk / "state" / "file.cursor")
            file.load()
            fill(disk)
            payload = b""
            for number in range(50):
                before, payload = payload, b"%d" % number * (number * 600)
                file.save(payload)
            file.close()
            file = SlotFile(disk / "state" / "file.cursor")
            assert file.load() == Slots(newest=payload, older=before)
            file.close()

    def test_a_file_that_can_not_be_made(self, tmp_path):
        """A start on a full disk goes on; saves fail until there is room, then succeed."""
        with small_disk(tmp_path, "tmpfs") as disk:
            fill(disk)
            file = SlotFile(disk / "file.cursor")
            assert file.load() == Slots()
            with pytest.raises(OSError, match="No space left"):
                file.save(b"1")
            for filler in disk.glob("filler-*"):
                filler.unlink()
            file.save(b"1")
            assert file.slots == Slots(newest=b"1")
            file.close()
