"""The model of a disk allows what real ones do, and nothing else."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.power.disk import Disk, Killed

BLOCK = 4096
SEEDS = range(100)


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "root").mkdir()
    with Disk(tmp_path / "root") as disk:
        yield disk


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def after_loss(disk, tmp_path, seeds=SEEDS) -> list[dict[str, bytes]]:
    """Return what may be there after a power loss, each state once."""
    found = []
    target = tmp_path / f"states-{disk.calls}"
    target.mkdir()
    for _name, folder in disk.states(target, seeds):
        if (state := contents(folder)) not in found:
            found.append(state)
    return found


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


class TestData:
    def test_unsynced_blocks_persist_in_any_subset(self, disk, tmp_path):
        """Of two blocks either, both or none are there, behind a size that is old or new."""
        path = disk.root / "file"
        path.write_bytes(b"a" * BLOCK + b"b" * BLOCK)
        sync(disk.root)
        states = [state["file"] for state in after_loss(disk, tmp_path)]
        zeros = bytes(BLOCK)
        for expected in (
            b"",
            zeros + zeros,
            b"a" * BLOCK + zeros,
            zeros + b"b" * BLOCK,
            b"a" * BLOCK + b"b" * BLOCK,
        ):
            assert expected in states
        assert len(states) == 5

        sync(path)
        assert after_loss(disk, tmp_path) == [{"file": b"a" * BLOCK + b"b" * BLOCK}]

    def test_a_block_may_be_as_it_was_in_between(self, disk, tmp_path):
        """What was written and cut off again may be there."""
        path = disk.root / "file"
        path.write_bytes(b"old")
        sync(path)
        sync(disk.root)
        with path.open("ab") as file:
            file.write(b"failed")
        os.truncate(path, 3)
        assert {"file": b"oldfailed"} in after_loss(disk, tmp_path)
        sync(path)
        assert after_loss(disk, tmp_path) == [{"file": b"old"}]

    def test_a_failed_sync_drops_what_it_was_for(self, disk, tmp_path):
        """A later sync succeeds without it, unless the block is written again."""
        fd = os.open(disk.root / "file", os.O_CREAT | os.O_WRONLY)
        sync(disk.root)
        os.write(fd, b"1")
        disk.fail(0, errno.EIO, ("fsync",))
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(fd)
        os.fsync(fd)
        assert {"file": b"\0"} in after_loss(disk, tmp_path)
        os.pwrite(fd, b"1", 0)
        os.fdatasync(fd)
        os.close(fd)
        assert after_loss(disk, tmp_path) == [{"file": b"1"}]

    def test_a_write_may_ask_for_its_own_sync(self, disk, tmp_path):
        """RWF_DSYNC makes safe what the call wrote."""
        fd = os.open(disk.root / "file", os.O_CREAT | os.O_WRONLY)
        sync(disk.root)
        os.pwritev(fd, [b"1", b"2"], 0, os.RWF_DSYNC)
        os.close(fd)
        assert after_loss(disk, tmp_path) == [{"file": b"12"}]

    def test_that_sync_is_for_its_own_blocks(self, disk, tmp_path):
        """What another call wrote into other blocks stays as uncertain as it was."""
        fd = os.open(disk.root / "file", os.O_CREAT | os.O_WRONLY)
        sync(disk.root)
        os.pwrite(fd, b"a" * 2 * BLOCK, 0)
        os.pwritev(fd, [b"b"], BLOCK, os.RWF_DSYNC)
        os.close(fd)
        safe = b"b" + b"a" * (BLOCK - 1)
        states = [state["file"] for state in after_loss(disk, tmp_path)]
        assert sorted(states) == [bytes(BLOCK) + safe, b"a" * BLOCK + safe]

    def test_that_sync_may_fail(self, disk, tmp_path):
        """What was written is there then, and lost with the power whatever is synced later."""
        fd = os.open(disk.root / "file", os.O_CREAT | os.O_WRONLY)
        sync(disk.root)
        disk.fail(0, errno.EIO, ("fdatasync",))
        with pytest.raises(OSError, match="Input/output"):
            os.pwritev(fd, [b"1"], 0, os.RWF_DSYNC)
        assert (disk.root / "file").read_bytes() == b"1"
        os.fsync(fd)
        assert {"file": b"\0"} in after_loss(disk, tmp_path)
        os.pwritev(fd, [b"1"], 0, os.RWF_DSYNC)
        os.close(fd)
        assert after_loss(disk, tmp_path) == [{"file": b"1"}]

    def test_a_write_may_take_a_part(self, disk):
        """As many bytes as the disk takes at once, and the caller is told how many."""
        disk.piece_bytes_max = 2
        fd = os.open(disk.root / "file", os.O_CREAT | os.O_WRONLY)
        assert os.pwritev(fd, [b"a", b"bc"], 0, os.RWF_DSYNC) == 2
        assert os.write(fd, b"x") == 1
        os.close(fd)
        assert (disk.root / "file").read_bytes() == b"xb"

    @pytest.mark.parametrize("how", ["copyfile", "write_text", "gzip"])
    def test_python_files_are_seen(self, disk, tmp_path, how):
        """What the standard library writes is recorded as what `os` writes."""
        path, source = disk.root / "file", tmp_path / "source"
        source.write_bytes(b"x" * 3 * BLOCK)
        match how:
            case "copyfile":
                shutil.copyfile(source, path)
            case "write_text":
                path.write_text("x" * 3 * BLOCK)
            case "gzip":
                import gzip

                with gzip.open(path, "wb") as file:
                    file.write(os.urandom(3 * BLOCK))
        whole = path.read_bytes()
        sync(disk.root)
        assert {"file": b""} in after_loss(disk, tmp_path)
        sync(path)
        assert after_loss(disk, tmp_path) == [{"file": whole}]


class TestNames:
    def test_they_persist_in_order(self, disk, tmp_path):
        """Without a sync of the folder the newest names may be missing, not only the oldest."""
        for name in "abc":
            (disk.root / name).touch()
        states = [set(state) for state in after_loss(disk, tmp_path)]
        for expected in (set(), {"a"}, {"a", "b"}, {"a", "b", "c"}):
            assert expected in states
        assert len(states) == 4
        sync(disk.root)
        assert after_loss(disk, tmp_path) == [{"a": b"", "b": b"", "c": b""}]

    def test_a_rename_happens_whole_or_not_at_all(self, disk, tmp_path):
        """Over a file and into another folder, there is always exactly one of both."""
        (disk.root / "below").mkdir()
        (disk.root / "new").write_bytes(b"new")
        (disk.root / "old").write_bytes(b"old")
        for name in ("new", "old", "below", "."):
            sync(disk.root / name)
        (disk.root / "new").rename(disk.root / "old")
        assert after_loss(disk, tmp_path) == [{"new": b"new", "old": b"old"}, {"old": b"new"}]
        sync(disk.root)
        (disk.root / "old").replace(disk.root / "below" / "moved")
        assert after_loss(disk, tmp_path) == [{"old": b"new"}, {"below/moved": b"new"}]
        sync(disk.root / "below")
        assert after_loss(disk, tmp_path) == [{"below/moved": b"new"}]

    def test_a_lost_folder_takes_its_files(self, disk, tmp_path):
        """Synced files of a folder whose own name was not synced may be gone."""
        (disk.root / "folder").mkdir()
        (disk.root / "folder" / "file").write_bytes(b"1")
        sync(disk.root / "folder" / "file")
        sync(disk.root / "folder")
        assert {} in after_loss(disk, tmp_path)
        sync(disk.root)
        assert after_loss(disk, tmp_path) == [{"folder/file": b"1"}]

    def test_a_removal_may_come_first(self, disk, tmp_path):
        """A copy that takes a file's place is not there just because the file is gone."""
        for name in ("old", "copy.tmp"):
            (disk.root / name).touch()
        sync(disk.root)
        (disk.root / "copy.tmp").rename(disk.root / "copy")
        (disk.root / "old").unlink()
        states = [set(state) for state in after_loss(disk, tmp_path)]
        for expected in ({"copy.tmp", "old"}, {"copy", "old"}, {"copy"}, {"copy.tmp"}):
            assert expected in states

    def test_a_removed_file_may_be_back(self, disk, tmp_path):
        """A name that goes is as uncertain as one that comes."""
        (disk.root / "file").write_bytes(b"1")
        sync(disk.root / "file")
        sync(disk.root)
        shutil.rmtree(disk.root)
        assert after_loss(disk, tmp_path) == [{"file": b"1"}, {}]


class TestEnds:
    def test_after_its_end_a_process_does_nothing(self, disk):
        """Neither the last call nor those after it, in tidying up say, have any effect."""
        fd = os.open(disk.root / "file", os.O_CREAT | os.O_WRONLY)
        disk.kill(1)
        os.write(fd, b"1")
        for _call in range(2):
            with pytest.raises(Killed):
                os.write(fd, b"2")
        with pytest.raises(Killed):
            (disk.root / "file").unlink()
        disk.end_process()
        assert (disk.root / "file").read_bytes() == b"1"

    def test_a_call_that_fails_may_have_begun(self, disk):
        """A write fails after a half of it; other calls do nothing."""
        with (disk.root / "file").open("ab", buffering=0) as file:
            disk.fail(1, errno.ENOSPC, ("write", "unlink"))
            file.write(b"ab")
            with pytest.raises(OSError, match="No space"):
                file.write(b"cd")
        assert (disk.root / "file").read_bytes() == b"abc"
