"""Files and folders get their mode whatever the umask, and files what is written to them."""

import os
import stat

import pytest

from segsrv import files
from segsrv.files import (
    begin_writeback,
    make_dir,
    open_file,
    replace_file,
    set_dir_mode,
    write_all,
    write_all_at,
)

NEW = os.O_CREAT | os.O_WRONLY


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    """Run the test under a loose, a common and a strict umask."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_and_close(path, flags, mode):
    os.close(open_file(path, flags, mode))


class TestMode:
    @pytest.mark.usefixtures("umask")
    def test_of_new_files_and_folders(self, tmp_path):
        """Each is made with the mode that is asked for; folders can be entered by readers."""
        make_dir(tmp_path / "a" / "b", 0o640)
        open_and_close(tmp_path / "a" / "b" / "file", NEW, 0o640)
        replace_file(tmp_path / "a" / "other", b"1", file_mode=0o600)

        assert mode_of(tmp_path / "a") == mode_of(tmp_path / "a" / "b") == 0o750
        assert mode_of(tmp_path / "a" / "b" / "file") == 0o640
        assert mode_of(tmp_path / "a" / "other") == 0o600

    @pytest.mark.parametrize(
        ("file_mode", "dir_mode"),
        [(0o600, 0o700), (0o640, 0o750), (0o644, 0o755), (0o660, 0o770), (0o664, 0o775)],
        ids=oct,
    )
    def test_of_folders_follows_that_of_files(self, tmp_path, file_mode, dir_mode):
        """Whoever may read the files may enter their folder, and nobody else."""
        make_dir(tmp_path / "new", file_mode)
        assert mode_of(tmp_path / "new") == dir_mode

    @pytest.mark.usefixtures("umask")
    def test_of_a_file_that_is_continued(self, tmp_path):
        """A file from an earlier start gets the new mode when it is written again."""
        for number, before in enumerate((0o666, 0o600)):
            path = tmp_path / str(number)
            path.touch()
            path.chmod(before)
            open_and_close(path, os.O_WRONLY | os.O_APPEND, 0o640)
            assert mode_of(path) == 0o640

    def test_present_parents_are_left_alone(self, tmp_path):
        """Only what is made gets a mode: the folder above may be anybody's."""
        tmp_path.chmod(0o711)
        make_dir(tmp_path / "new", 0o640)
        make_dir(tmp_path, 0o640)
        assert mode_of(tmp_path) == 0o711

    def test_a_folder_keeps_handing_on_its_group(self, tmp_path):
        """A set-group-ID folder, by which an operator shares what is in it, stays one."""
        tmp_path.chmod(0o2777)
        set_dir_mode(tmp_path, 0o640)
        assert mode_of(tmp_path) == 0o2750
        make_dir(tmp_path / "below", 0o640)
        assert mode_of(tmp_path / "below") == 0o2750

    def test_a_file_in_the_way_of_a_folder(self, tmp_path):
        """It is told apart from a folder that another worker has just made."""
        (tmp_path / "taken").touch()
        with pytest.raises(FileExistsError):
            make_dir(tmp_path / "taken")
        with pytest.raises(NotADirectoryError):
            make_dir(tmp_path / "taken" / "below")


COUNTS = [0, 1, 1_024, 1_025, 5_000]


@pytest.mark.parametrize("count", COUNTS)
def test_any_number_of_parts_is_written(tmp_path, count):
    """More parts than the kernel takes at once are written too, in order."""
    parts = [b"%d\n" % number for number in range(count)]
    with (tmp_path / "file").open("wb") as file:
        write_all(file.fileno(), parts)

    assert (tmp_path / "file").read_bytes() == b"".join(parts)


class TestWritesAtAPlace:
    @pytest.mark.parametrize("piece_bytes_max", [1, 999, 1 << 20])
    @pytest.mark.parametrize("count", COUNTS)
    def test_all_is_written(self, tmp_path, monkeypatch, count, piece_bytes_max):
        """However many parts, and however few bytes the kernel takes at once, flags with each."""
        parts = [b"%d\n" % number for number in range(min(count, piece_bytes_max * 2_000))]
        flags_seen, write = set(), os.pwritev

        def write_some(fd, some, offset, flags):
            flags_seen.add(flags)
            return write(fd, [b"".join(some)[:piece_bytes_max]], offset, flags)

        path = tmp_path / "file"
        path.write_bytes(b"abcdef")
        with path.open("r+b") as file:
            monkeypatch.setattr(os, "pwritev", write_some)
            write_all_at(file.fileno(), parts, 3, os.RWF_HIPRI)

        written = b"".join(parts)
        assert path.read_bytes() == b"abc" + written + b"def"[len(written) :]
        assert flags_seen <= {os.RWF_HIPRI}

    def test_a_file_that_takes_nothing(self, tmp_path, monkeypatch):
        """It is an error, and no endless loop."""
        monkeypatch.setattr(os, "pwritev", lambda *_arguments: 0)
        with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="nothing more"):
            write_all_at(file.fileno(), [b"1"], 0)


class TestWriteback:
    def test_it_is_begun_where_that_is_possible(self, tmp_path):
        """What is in the file stays as it is; of what can't be told so, nothing is asked."""
        with (tmp_path / "file").open("w+b", buffering=0) as file:
            file.write(b"x" * 10_000)
            begin_writeback(file.fileno(), 0, 8_192)
            file.seek(0)
            assert file.read() == b"x" * 10_000
        reader, writer = os.pipe()
        try:
            begin_writeback(writer, 0, 4_096)
        finally:
            os.close(reader)
            os.close(writer)

    def test_other_systems_go_without(self, tmp_path, monkeypatch):
        """It saves time, and nothing hangs on it."""
        monkeypatch.setattr(files, "_sync_file_range", None)
        with (tmp_path / "file").open("w+b") as file:
            begin_writeback(file.fileno(), 0, 4_096)
