"""Dead letters taken out of their files, whatever a server does with the same files meanwhile."""

import fcntl
import os
import threading

import orjson
import pytest

from segsrv.journal import letters
from segsrv.journal.dead_letters import FILES, DeadLetters
from segsrv.journal.letters import FolderInUse


def line(number) -> bytes:
    return orjson.dumps({"reason": "r", "item": {"number": number}}) + b"\n"


def written(directory, *numbers, prefix="w0", bytes_max=1 << 30):
    writer = DeadLetters(directory, prefix=prefix, bytes_max=bytes_max)
    for number in numbers:
        writer.append([line(number)])
    return writer


def numbers_in(directory) -> list[int]:
    return [
        letter.fields["item"]["number"]
        for path in letters.files(directory)
        for letter in letters.read(path)
    ]


def take_out(directory, *numbers) -> None:
    for path in letters.files(directory):
        spans = [
            (letter.start, letter.end)
            for letter in letters.read(path, letters.settled_bytes(path))
            if letter.fields["item"]["number"] in numbers
        ]
        if spans:
            letters.remove(path, letters.joined(spans))


def once(call, before):
    """Return *call* with *before* made ahead of its first use."""
    first = [before]

    def wrapped(*arguments):
        if first:
            first.pop()()
        return call(*arguments)

    return wrapped


class TestReading:
    def test_only_files_with_letters_count(self, tmp_path):
        """Foreign names, folders and pipes in the folder are no files of letters."""
        written(tmp_path, 1)
        (tmp_path / "notes.ndjson").write_bytes(line(2))
        (tmp_path / "w0-00000002.ndjson.tmp").write_bytes(line(3))
        (tmp_path / "w1-00000001.ndjson").mkdir()
        os.mkfifo(tmp_path / "w2-00000001.ndjson")

        assert numbers_in(tmp_path) == [1]

    def test_half_a_line_is_no_letter(self, tmp_path):
        """What is still being written, or was when the server died, is left out."""
        written(tmp_path, 1, 2)
        with (tmp_path / "w0-00000001.ndjson").open("ab") as file:
            file.write(line(3)[:-1])

        assert numbers_in(tmp_path) == [1, 2]

    @pytest.mark.parametrize("garbage", [b"\n", b"[]\n", b"null\n", b"\xff\n", b"{\n"])
    def test_what_is_no_letter_has_a_reason_of_its_own(self, tmp_path, garbage):
        """A damaged line stops nothing."""
        written(tmp_path, 1)
        path = tmp_path / "w0-00000001.ndjson"
        path.write_bytes(line(1) + garbage + line(2))

        assert [letter.text("reason") for letter in letters.read(path)] == ["r", "unreadable", "r"]

    @pytest.mark.parametrize(
        "item",
        [
            b'{"a":1.0,"b":18446744073709551616}',
            rb'{"note":",\"item\":{\"x\":1}}"}',
            b'{"item":{"item":{}},"time":"2026-11-25T10:00:00Z"}',
            b"{}",
        ],
    )
    @pytest.mark.parametrize("head", [b"", b'"time":"2026-11-25T10:00:00Z",'])
    @pytest.mark.parametrize("tail", [b"", b',"time":"2026-11-25T10:00:00Z","key_id":"web"'])
    def test_an_event_comes_out_as_it_was_stored(self, tmp_path, item, head, tail):
        """Byte for byte, also numbers that a parser would round."""
        path = tmp_path / "w0-00000001.ndjson"
        message = rb'"message":"at \",\"item\":1",'
        path.write_bytes(b"{" + head + message + b'"item":' + item + tail + b"}\n")

        (letter,) = letters.read(path)
        assert letter.item() == item + b"\n"

    def test_a_letter_without_a_time_is_as_old_as_its_file(self, tmp_path):
        """Also after others were taken out of the file."""
        path = tmp_path / "w0-00000001.ndjson"
        path.write_bytes(line(1) + line(2))
        os.utime(path, (1_700_000_000, 1_700_000_000))
        take_out(tmp_path, 1)

        (letter,) = letters.read(path)
        assert letter.time_ms == 1_700_000_000_000


class TestRemoving:
    def test_the_others_stay_in_order(self, tmp_path):
        """What is taken out is gone, and nothing else."""
        written(tmp_path, *range(10))
        take_out(tmp_path, 0, 3, 4, 9)

        assert numbers_in(tmp_path) == [1, 2, 5, 6, 7, 8]
        assert [path.name for path in tmp_path.iterdir()] == ["w0-00000001.ndjson"]

    def test_the_file_stays_the_servers(self, tmp_path):
        """Mode and owner are as they were: the server may be another user than the operator."""
        written(tmp_path, 1, 2)
        path = tmp_path / "w0-00000001.ndjson"
        path.chmod(0o604)
        if os.getuid() == 0:
            os.chown(path, 65534, 65534)
        before = path.stat()
        take_out(tmp_path, 1)

        after = path.stat()
        assert after.st_ino != before.st_ino
        assert (after.st_mode, after.st_uid, after.st_gid) == (
            before.st_mode,
            before.st_uid,
            before.st_gid,
        )

    def test_an_empty_file_goes_unless_it_is_the_newest(self, tmp_path):
        """A server goes on in the newest one, and takes its name for a file that is there."""
        written(tmp_path, 1, 2, 3, bytes_max=FILES)
        take_out(tmp_path, 1, 2, 3)

        (path,) = tmp_path.iterdir()
        assert (path.name, path.stat().st_size) == ("w0-00000003.ndjson", 0)

    def test_the_server_goes_on_in_the_file_that_took_the_place(self, tmp_path):
        """A writer that has the old file in mind appends to the new one."""
        writer = written(tmp_path, 1, 2)
        take_out(tmp_path, 1)
        writer.append([line(3)])
        take_out(tmp_path, 2, 3)
        writer.append([line(4)])

        assert numbers_in(tmp_path) == [4]

    def test_a_failure_leaves_the_file_as_it_was(self, tmp_path, monkeypatch):
        """Nothing is lost or left behind when the disk is full."""
        written(tmp_path, 1, 2)

        def refuse(_fd, _parts):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(letters, "write_all", refuse)
        with pytest.raises(OSError, match="No space left"):
            take_out(tmp_path, 1)

        assert numbers_in(tmp_path) == [1, 2]
        assert [path.name for path in tmp_path.iterdir()] == ["w0-00000001.ndjson"]

    def test_a_full_disk_can_be_emptied(self, tmp_path, monkeypatch):
        """Taking out all letters writes nothing."""
        written(tmp_path, 1, 2, 3, bytes_max=FILES)
        monkeypatch.setattr(letters, "write_all", None)
        take_out(tmp_path, 1, 2, 3)

        assert numbers_in(tmp_path) == []

    def test_a_file_that_the_server_deleted_is_no_fault(self, tmp_path):
        """The oldest file may go at any moment."""
        written(tmp_path, 1)
        path = tmp_path / "w0-00000001.ndjson"
        path.unlink()

        letters.remove(path, [(0, 10)])
        assert list(letters.read(path)) == []
        assert letters.settled_bytes(path) == 0

    def test_commands_exclude_each_other(self, tmp_path):
        """Where letters stand must not change below a command; what one left behind goes."""
        left = tmp_path / "w0-00000001.ndjson.tmp"
        left.write_bytes(b"half")
        with letters.exclusive(tmp_path):
            assert not left.exists()
            with pytest.raises(FolderInUse), letters.exclusive(tmp_path):
                pass
        with letters.exclusive(tmp_path):
            pass


class TestBesideAServer:
    def test_a_server_never_waits_for_a_command(self, tmp_path):
        """While a command holds the newest file, the next one is begun."""
        writer = written(tmp_path, 1)
        fd = os.open(tmp_path / "w0-00000001.ndjson", os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            writer.append([line(2)])
        finally:
            os.close(fd)
        writer.append([line(3)])

        files = letters.files(tmp_path)
        assert [len(list(letters.read(path))) for path in files] == [1, 2]

    def test_a_file_that_is_replaced_while_it_is_opened_is_opened_again(
        self, tmp_path, monkeypatch
    ):
        """What would be appended to the old file was never seen again."""
        writer = written(tmp_path, 1, 2)
        monkeypatch.setattr(fcntl, "flock", once(fcntl.flock, lambda: take_out(tmp_path, 1)))
        writer.append([line(3)])

        assert numbers_in(tmp_path) == [2, 3]

    def test_a_file_that_is_deleted_while_it_is_opened_stays_so(self, tmp_path, monkeypatch):
        """The server deletes its oldest file when it likes; taking out does not bring it back."""
        written(tmp_path, 1, 2)
        path = tmp_path / "w0-00000001.ndjson"
        monkeypatch.setattr(fcntl, "flock", once(fcntl.flock, path.unlink))
        letters.remove(path, [(0, len(line(1)))])

        assert list(tmp_path.iterdir()) == []

    def test_small_files_do_not_push_others_out(self, tmp_path):
        """Files that were begun early count by their bytes against the limit, not by number."""
        writer = written(tmp_path)
        for number in range(3 * FILES):
            writer.append([line(number)])
            fd = os.open(letters.files(tmp_path)[-1], os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                writer.append([line(1_000 + number)])
            finally:
                os.close(fd)

        assert len(numbers_in(tmp_path)) == 6 * FILES

    def test_nothing_is_lost_or_doubled(self, tmp_path):
        """Every letter that was appended is there until it is taken out, and then it is not."""
        writer = DeadLetters(tmp_path, prefix="w0", bytes_max=100_000)
        total = 1_000
        stopped = threading.Event()

        def append() -> None:
            for number in range(total):
                writer.append([line(number)])
            stopped.set()

        thread = threading.Thread(target=append)
        thread.start()
        taken: list[int] = []
        while not stopped.is_set():
            even = [number for number in numbers_in(tmp_path) if number % 2 == 0]
            take_out(tmp_path, *even)
            taken += even
        thread.join()
        left = numbers_in(tmp_path)
        taken += [number for number in left if number % 2 == 0]

        assert sorted(taken) == list(range(0, total, 2))
        assert sorted(number for number in left if number % 2) == list(range(1, total, 2))
