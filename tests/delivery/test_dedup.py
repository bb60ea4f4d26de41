"""Deduplication: what becomes of events that come again, over restarts, damage and full disks."""

import contextlib
import errno
import os
import resource
import shutil
import stat
from pathlib import Path

import pytest

from segsrv.delivery import dedup, dedup_part
from tests.delivery.dedup_events import (
    OTHER_JOURNAL,
    WINDOW_S,
    deliver,
    kept,
    open_index,
    sent,
)


def names(count, *, prefix="id"):
    return [f"{prefix}-{number}" for number in range(count)]


def refuse_writes(index):
    """Put a full device below the newest part; return what puts the file back."""
    fd = index._parts[-1]._fd
    file = os.dup(fd)
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, fd)
    os.close(full)

    def accept():
        os.dup2(file, fd)
        os.close(file)

    return accept


@contextlib.contextmanager
def descriptors_left(count):
    """Leave this process no more than *count* file descriptors to open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + 10, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "dedup" / "file"


@pytest.fixture
def index(folder):
    index = open_index(folder)
    yield index
    index.close()


class TestIdentity:
    def test_an_event_that_comes_again_is_kept_once(self, index):
        """An id that was judged before, from another position, is a duplicate and is counted."""
        assert deliver(index, sent("a", "b", position=0)) == ["a", "b"]
        assert deliver(index, sent("b", "c", position=10)) == ["c"]
        assert index.duplicates == 1
        assert index.ids == 3

    def test_duplicates_in_one_batch(self, index):
        """Of events with one id in the same batch, or the same request, the first is kept."""
        batch = [sent("a", "a", "b", position=0), sent("b", "c", position=10)]
        assert list(index.judge(batch)) == [1, 0, 1, 0, 1]

    def test_over_two_journals(self, index):
        """An SDK's second try may reach another worker, at the same position of its journal."""
        assert kept(index, sent("a")) == ["a"]
        assert kept(index, sent("a", journal=OTHER_JOURNAL)) == []

    def test_no_key_suppresses_what_comes_with_another(self, index):
        """Whoever has another write key can send the same id first, to no effect."""
        assert kept(index, sent("a", key="attacker")) == ["a"]
        assert kept(index, sent("a", position=5, key="web")) == ["a"]

    def test_formats_are_apart(self, index):
        """The same id in another format is another event."""
        assert kept(index, sent("a", output="flat")) == ["a"]
        assert kept(index, sent("a", position=5, output="compat")) == ["a"]

    def test_key_and_format_can_not_be_shifted(self, index):
        """Two pairs of key and format that make the same text are still two."""
        assert kept(index, sent("a", key="we", output="bflat")) == ["a"]
        assert kept(index, sent("a", position=5, key="web", output="flat")) == ["a"]

    def test_events_without_an_id_are_kept(self, index):
        """What has no id can't be told from another, and takes no place."""
        assert kept(index, sent("", "", position=0), sent("", position=5)) == ["", "", ""]
        assert index.ids == 0

    def test_any_text_is_an_id(self, index):
        """Ids are long, empty in the middle, or of any letters."""
        ids = ["x" * 100_000, "\0", "é", "e\u0301", " a", "a"]
        assert deliver(index, sent(*ids)) == ids
        assert deliver(index, sent(*ids, position=100)) == []

    def test_two_indexes_hash_differently(self, tmp_path):
        """Ids that fall together in one index say nothing about another."""
        indexes = [open_index(tmp_path / name) for name in "ab"]
        for index in indexes:
            deliver(index, sent("a"))
            index.close()
        first, second = (next((tmp_path / name).glob("*.ids")).read_bytes()[64:80] for name in "ab")
        assert first != second


class TestWindow:
    def test_at_its_end_an_id_may_come_again(self, index):
        """Up to the window an id is a duplicate; after it, it is a new event, seen first then."""
        assert kept(index, sent("a")) == ["a"]
        assert kept(index, sent("a", position=1, after_s=WINDOW_S)) == []
        assert kept(index, sent("a", position=2, after_s=WINDOW_S + 1)) == ["a"]
        assert kept(index, sent("a", position=3, after_s=2 * WINDOW_S)) == []

    @pytest.mark.parametrize("offset_s", [-WINDOW_S - 1, -WINDOW_S, WINDOW_S, WINDOW_S + 1])
    @pytest.mark.parametrize("times_s", [(0, 0), (0, 50), (50, 0), (0, -50), (-50, 0)])
    def test_its_edges_in_a_full_part(self, folder, offset_s, times_s):
        """Parts whose records are too old or too new are left out, and no others."""
        index = open_index(folder, ids_max=12)
        for number, after_s in enumerate(times_s):
            deliver(index, sent(f"id-{number}", position=number, after_s=after_s))
        deliver(index, sent("new", position=5, after_s=0))
        for number, after_s in enumerate(times_s):
            again = sent(f"id-{number}", position=10 + number, after_s=after_s + offset_s)
            assert bool(kept(index, again)) == (abs(offset_s) > WINDOW_S)
        index.close()

    def test_duplicates_do_not_extend_it(self, index):
        """The window begins with the event that was kept, not with the last duplicate."""
        deliver(index, sent("a"), sent("a", position=1, after_s=WINDOW_S))
        assert kept(index, sent("a", position=2, after_s=WINDOW_S + 10)) == ["a"]

    def test_a_clock_that_was_set_back(self, index):
        """An event that was received before the first one, by its time, is as near as after it."""
        deliver(index, sent("a", after_s=100))
        assert kept(index, sent("a", position=1, after_s=0)) == []
        assert kept(index, sent("a", position=2, after_s=-WINDOW_S)) == ["a"]

    def test_a_clock_that_went_wild_costs_no_record(self, index):
        """Events of a year from now make the index forget nothing."""
        deliver(index, sent("a"))
        deliver(index, sent("b", position=1, after_s=366 * 86_400))
        deliver(index, sent("c", position=2, after_s=-5 * 10**9))
        assert kept(index, sent("a", "b", "c", position=10, after_s=5)) == ["b", "c"]

    def test_an_old_journal_is_judged_by_its_own_time(self, index):
        """What waited for a sink for days is judged as if it had been delivered at once."""
        deliver(index, sent("new", position=50, after_s=10 * WINDOW_S))
        assert deliver(index, sent("a", position=0), sent("a", position=1, after_s=9)) == ["a"]


class TestJudgingAgain:
    @pytest.mark.parametrize("is_synced", [True, False])
    @pytest.mark.parametrize("is_reopened", [True, False])
    def test_the_same_events_are_kept(self, folder, is_synced, is_reopened):
        """A batch that is sent again after a crash has the same events, synced or not."""
        index = open_index(folder)
        deliver(index, sent("old", position=0))
        batch = [sent("a", "b", "a", position=10), sent("old", "c", "b", position=20)]
        assert kept(index, *batch) == ["a", "b", "c"]
        if is_synced:
            index.sync()
        if is_reopened:
            index.close()
            index = open_index(folder)
        assert kept(index, *batch) == ["a", "b", "c"]
        index.close()

    def test_three_times_of_one_id_in_a_batch(self, index):
        """The first and the second were kept, the third lies near the first: so it stays."""
        batch = [
            sent("a", position=0, after_s=0),
            sent("a", position=1, after_s=WINDOW_S + 10),
            sent("a", position=2, after_s=5),
        ]
        first = index.judge(batch)
        assert list(first) == [1, 1, 0]
        assert index.judge(batch) == first

    def test_what_a_replay_sends_again_is_kept(self, index):
        """A range that is sent again on purpose is the same events, at the same positions."""
        assert deliver(index, sent("a", "b", position=0), sent("a", position=7)) == ["a", "b"]
        assert deliver(index, sent("a", "b", position=0), sent("a", position=7)) == ["a", "b"]

    def test_a_part_that_ends_in_the_batch(self, folder):
        """What a duplicate was found by stays until the batch is settled, though over capacity."""
        index = open_index(folder, ids_max=60)
        deliver(index, sent("old"))
        for turn in range(6):
            deliver(index, sent(*names(10, prefix=turn), position=100 * turn + 1))
        batch = [sent("old", position=900), sent(*names(15, prefix="new"), position=1000)]
        first = index.judge(batch)
        assert first[0] == 0
        index.sync()
        index.close()
        index = open_index(folder, ids_max=60)
        assert index.judge(batch) == first
        index.settle()
        assert kept(index, sent("old", position=2000)) == ["old"]
        index.close()


class TestRestart:
    def test_a_resend_after_it_is_a_duplicate(self, folder):
        """What was synced is known to the next process."""
        index = open_index(folder)
        deliver(index, sent("a", "b"))
        index.close()
        index = open_index(folder)
        assert index.ids == 2
        assert kept(index, sent("b", "c", position=10)) == ["c"]
        index.close()

    @pytest.mark.parametrize("has_tables", [True, False])
    def test_of_many_parts(self, folder, has_tables):
        """Full parts are read by their tables, or by their records where a table is lost."""
        ids = names(550)
        index = open_index(folder)
        assert deliver(index, sent(*ids)) == ids
        index.close()
        assert len(list(folder.glob("*.table"))) == 5
        if not has_tables:
            for table in folder.glob("*.table"):
                table.unlink()
        index = open_index(folder)
        assert index.ids == 550
        assert deliver(index, sent(*ids, "x", position=1000)) == ["x"]
        assert len(list(folder.glob("*.table"))) == 5
        index.close()

    def test_another_capacity(self, folder):
        """A larger or smaller `ids_max` takes over what is there, and drops what is too much."""
        index = open_index(folder, ids_max=600)
        deliver(index, sent(*names(500)))
        index.close()
        index = open_index(folder, ids_max=60)
        assert deliver(index, sent("x", *names(500), position=1000)) == ["x"]
        assert index.ids <= 200
        index.close()
        index = open_index(folder, ids_max=6000)
        assert deliver(index, sent("x", position=3000), sent(*names(900, prefix="y"))) == names(
            900, prefix="y"
        )
        index.close()

    def test_modes_are_the_settings(self, folder):
        """Files of the index get the mode of all files, whatever the umask is."""
        before = os.umask(0o077)
        try:
            index = open_index(folder, ids_max=6, file_mode=0o644)
            deliver(index, sent("a", "b"))
            index.close()
        finally:
            os.umask(before)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert set(modes.values()) == {0o644}
        assert len(modes) == 4


class TestCapacity:
    def test_the_oldest_leave_first(self, folder):
        """At least `ids_max` of the newest ids are known, and less than a sixth more stay."""
        index = open_index(folder, ids_max=60)
        ids = names(300)
        for number, event_id in enumerate(ids):
            assert deliver(index, sent(event_id, position=number)) == [event_id]
            assert index.ids < 70
        assert deliver(index, sent(*ids[-60:], position=1000)) == []
        assert index.evicted_early == 300 - index.ids
        assert deliver(index, sent(ids[0], position=2000)) == [ids[0]]
        index.close()

    def test_files_stay_bounded(self, folder):
        """However many ids come, the folder keeps its size."""
        index = open_index(folder, ids_max=60)
        sizes = set()
        for turn in range(60):
            deliver(index, sent(*names(10, prefix=turn), position=10 * turn))
            sizes.add(sum(path.stat().st_size for path in folder.iterdir()))
        assert max(sizes) < 7 * (64 + 10 * 32 + 32 + 4 * 32) + 1
        index.close()

    def test_without_settling_too(self, folder):
        """Even an index that nobody settles keeps a bounded number of ids."""
        index = open_index(folder, ids_max=60)
        for turn in range(100):
            index.judge([sent(*names(10, prefix=turn), position=10 * turn)])
        assert index.ids <= 60 + 3 * 10
        index.close()

    def test_what_outlived_its_window_did_not_leave_early(self, folder):
        """Only records that could still have found a duplicate count as evicted early."""
        index = open_index(folder, ids_max=60)
        for turn in range(6):
            deliver(index, sent(*names(10, prefix=turn), position=10 * turn, after_s=turn * 700))
        # The first part of these times is an hour older than the newest, as its window is long.
        deliver(index, sent("a", position=100, after_s=WINDOW_S + 100))
        index.settle()
        assert index.evicted_early == 0
        deliver(index, sent(*names(20, prefix="b"), position=200, after_s=WINDOW_S + 100))
        assert index.evicted_early == 10
        index.close()

    def test_a_part_of_mixed_times_is_counted_by_record(self, folder):
        """Of a part that leaves, those within the window are counted."""
        index = open_index(folder, ids_max=60)
        deliver(index, sent(*names(4, prefix="old"), position=0))
        for turn in range(1, 8):
            deliver(index, sent(*names(10, prefix=turn), position=10 * turn, after_s=WINDOW_S + 10))
        assert index.evicted_early == 6
        index.close()


class TestDamage:
    def filled(self, folder):
        index = open_index(folder, ids_max=60)
        deliver(index, sent(*names(25)))
        index.close()
        return sorted(folder.glob("*.ids"))

    @pytest.mark.parametrize("number", [0, 1, 2], ids=["full", "full_too", "open"])
    def test_a_damaged_header_costs_that_part(self, folder, number, caplog):
        """A part that can't be read is set aside with a log line; the others are kept."""
        path = self.filled(folder)[number]
        data = bytearray(path.read_bytes())
        data[20] ^= 1
        path.write_bytes(data)
        index = open_index(folder, ids_max=60)
        assert index.set_aside == 1
        assert path.with_name(path.name + ".damaged").read_bytes() == data
        assert caplog.text.count("dedup: set aside") == 1
        again = deliver(index, sent(*names(25), position=100))
        assert again == names(25)[number * 10 : number * 10 + 10]
        assert deliver(index, sent(*names(25), position=200)) == []
        index.close()

    def test_every_flipped_byte(self, folder, tmp_path):
        """Whatever byte is wrong, the index opens, knows nearly all, and suppresses no new id."""
        self.filled(folder)
        copy = tmp_path / "copy"
        for path in sorted(folder.iterdir()):
            for offset in range(path.stat().st_size):
                shutil.copytree(folder, copy)
                with (copy / path.name).open("r+b") as file:
                    file.seek(offset)
                    byte = file.read(1)[0]
                    file.seek(offset)
                    file.write(bytes([byte ^ 0x41]))
                index = open_index(copy, ids_max=60)
                assert deliver(index, sent("new", position=90)) == ["new"]
                again = deliver(index, sent(*names(25), position=100))
                assert len(again) <= (10 if index.set_aside else 1)
                assert deliver(index, sent(*names(25), position=200)) == []
                index.close()
                shutil.rmtree(copy)

    def test_every_truncation(self, folder, tmp_path):
        """A file that was cut short costs the records that were cut."""
        self.filled(folder)
        copy = tmp_path / "copy"
        for path in sorted(folder.iterdir()):
            for size in range(0, path.stat().st_size, 7):
                shutil.copytree(folder, copy)
                os.truncate(copy / path.name, size)
                index = open_index(copy, ids_max=60)
                assert len(deliver(index, sent(*names(25), position=100))) <= 10
                assert deliver(index, sent(*names(25), position=200)) == []
                index.close()
                shutil.rmtree(copy)

    def test_damaged_records_are_counted(self, folder):
        """A record that is not what was written finds nothing, and is counted."""
        path = self.filled(folder)[0]
        with path.open("r+b") as file:
            file.seek(64 + 3 * 32)
            file.write(bytes(32))
        index = open_index(folder, ids_max=60)
        assert deliver(index, sent(*names(10), position=100)) == ["id-3"]
        assert index.damaged == 1
        index.close()

    def test_a_torn_tail_is_written_over(self, folder):
        """What a power cut left of a record was never synced: no damage, and room for the next."""
        path = self.filled(folder)[-1]
        with path.open("r+b") as file:
            file.seek(64 + 5 * 32)
            file.write(b"x" * 50)
        index = open_index(folder, ids_max=60)
        assert (index.damaged, index.ids) == (0, 25)
        deliver(index, sent("a", position=50))
        index.close()
        index = open_index(folder, ids_max=60)
        assert (index.damaged, index.ids) == (0, 26)
        assert deliver(index, sent("a", "id-24", position=100)) == []
        index.close()

    @pytest.mark.parametrize(("free", "known"), [(0, 0), (1, 5)], ids=["none", "one"])
    def test_a_lack_of_file_descriptors_is_no_damage(self, folder, caplog, free, known):
        """Parts that can't be opened for now stay where they are, for the next start."""
        before = self.filled(folder)
        with descriptors_left(free):
            index = open_index(folder, ids_max=60)
        assert (index.set_aside, index.ids) == (0, known)
        assert os.strerror(errno.EMFILE) in caplog.text
        assert len(deliver(index, sent(*names(25), position=100))) == 25 - known
        index.close()
        assert all(path.exists() for path in before)
        index = open_index(folder, ids_max=60)
        assert deliver(index, sent(*names(25), position=200)) == []
        index.close()

    def test_no_part_is_written_over(self, folder):
        """Even an index that could not see its parts makes none in their place."""
        path = self.filled(folder)[0]
        before = path.read_bytes()
        with pytest.raises(FileExistsError):
            dedup_part.begin(path, 1, 10, bytes(32), file_mode=0o640, free_bytes_min=0)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("kind", ["text", "empty", "pipe", "folder", "link"])
    def test_foreign_files_are_set_aside(self, folder, kind):
        """What has the name of a part and is none stops nothing."""
        folder.mkdir(parents=True)
        path = folder / "0000000003.ids"
        match kind:
            case "text":
                path.write_text("not an index " * 100)
            case "empty":
                path.touch()
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "link":
                path.symlink_to("/nonexistent")
        index = open_index(folder)
        assert deliver(index, sent("a"), sent("a", position=1)) == ["a"]
        assert index.set_aside == 1
        index.close()

    def test_other_names_are_left_alone(self, folder):
        """A backup or a note in the folder is no part."""
        folder.mkdir(parents=True)
        for name in ("backup.ids", "README", "1.ids.bak"):
            (folder / name).write_text("mine")
        index = open_index(folder)
        deliver(index, sent("a"))
        index.close()
        assert {path.name for path in folder.iterdir()} > {"backup.ids", "README", "1.ids.bak"}
        assert index.set_aside == 0

    def test_parts_of_another_index_are_set_aside(self, folder, tmp_path):
        """The newest part says which secret counts; hashes under another one mean nothing."""
        index = open_index(tmp_path / "other")
        deliver(index, sent("a"))
        index.close()
        index = open_index(folder, ids_max=6)
        deliver(index, sent("b", "c"))
        index.close()
        shutil.copy(next((tmp_path / "other").glob("*.ids")), folder / "0000000001.ids")
        index = open_index(folder, ids_max=6)
        assert index.set_aside == 1
        assert kept(index, sent("b", "c", position=10)) == ["b"]
        index.close()

    def test_few_files_stay_set_aside(self, folder):
        """What was set aside does not fill the disk."""
        folder.mkdir(parents=True)
        for number in range(10):
            (folder / f"{number:010d}.ids").write_text("not an index")
        index = open_index(folder)
        assert index.set_aside == 10
        assert len(list(folder.iterdir())) == dedup.SET_ASIDE_MAX
        index.close()


class TestFullDisk:
    def test_a_disk_that_fills_up_later_stops_no_record(self, folder):
        """A part has all its bytes on the disk when it is begun."""
        index = open_index(folder, ids_max=60_000)
        deliver(index, sent("a"))
        part = next(folder.glob("*.ids"))
        assert part.stat().st_blocks * 512 >= part.stat().st_size == 64 + 10_000 * 32
        index.close()

    def test_without_room_for_a_part(self, folder, caplog):
        """Events are kept and counted, and one line a minute says so, with the limit."""
        now = [0.0]
        index = open_index(folder, disk_free_bytes_min=1 << 62, clock=lambda: now[0])
        for turn in range(5):
            now[0] += 20
            assert deliver(index, sent("a", "b", position=10 * turn)) == ["a", "b"]
        assert index.unrecorded == 10
        assert index.ids == 0
        assert list(folder.iterdir()) == []
        assert caplog.text.count("dedup: disk error") == 2
        assert f"{1 << 62} must stay free" in caplog.text
        index.close()

    def test_known_ids_stay_duplicates(self, folder):
        """An index that takes no new records goes on to find those that it has."""
        index = open_index(folder, ids_max=6)
        deliver(index, sent("a"))
        index.close()
        index = open_index(folder, ids_max=6, disk_free_bytes_min=1 << 62)
        assert deliver(index, sent("a", "b", position=10)) == ["b"]
        assert (index.duplicates, index.unrecorded) == (1, 1)
        index.close()

    def test_refused_records_wait_in_memory(self, folder, caplog):
        """A sync that failed loses nothing of this process, and the next one makes up for it."""
        index = open_index(folder)
        deliver(index, sent("a"))
        accept = refuse_writes(index)
        assert kept(index, sent("b", position=1)) == ["b"]
        assert not index.sync()
        assert os.strerror(errno.ENOSPC) in caplog.text
        assert kept(index, sent("b", "c", position=2)) == ["c"]
        assert not index.sync()
        assert index.pending == 2
        accept()
        assert index.sync()
        index.close()
        index = open_index(folder)
        assert kept(index, sent("a", "b", "c", position=10)) == []
        index.close()

    def test_records_in_memory_are_bounded(self, folder, monkeypatch):
        """Beyond the limit events are kept without a record, and counted."""
        monkeypatch.setattr(dedup, "PENDING_MAX", 10)
        index = open_index(folder)
        deliver(index, sent("a"))
        accept = refuse_writes(index)
        for turn in range(4):
            ids = names(5, prefix=turn)
            assert kept(index, sent(*ids, position=10 * turn + 1)) == ids
            assert not index.sync()
        assert index.pending == 10
        assert index.unrecorded == 10
        accept()
        index.close()

    def test_a_folder_that_can_not_be_made(self, tmp_path):
        """Where the index has no place at all, every event is delivered."""
        (tmp_path / "dedup").write_text("in the way")
        index = open_index(tmp_path / "dedup" / "file")
        assert deliver(index, sent("a"), sent("a", position=1)) == ["a", "a"]
        assert index.unrecorded == 2
        index.close()

    def test_it_begins_as_soon_as_it_can(self, tmp_path):
        """Once a batch the index asks the disk for room, and records again when it gets some."""
        (tmp_path / "dedup").write_text("in the way")
        index = open_index(tmp_path / "dedup" / "file")
        assert deliver(index, sent(*names(5))) == names(5)
        (tmp_path / "dedup").unlink()
        assert deliver(index, sent(*names(5), position=10)) == names(5)
        assert deliver(index, sent(*names(5), position=20)) == []
        assert index.unrecorded == 5
        assert [path.name for path in (tmp_path / "dedup" / "file").iterdir()] == ["0000000002.ids"]
        index.close()
