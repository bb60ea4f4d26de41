"""What each part promises holds after a power loss, at each call of it and right behind it.

These are the tests that fail when a sync, a rename or the sync of a folder is deleted.
"""

import asyncio
import errno
import gzip
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from segsrv import Settings, cli, create_app
from segsrv.delivery.cursor import Mark
from segsrv.delivery.dedup import DedupIndex, Sent
from segsrv.delivery.set_aside import SetAside, parts_of
from segsrv.errors import Unavailable
from segsrv.files import make_dir, publish, replace_file
from segsrv.geoip import download
from segsrv.journal.reader import Reader
from segsrv.journal.slots import SlotFile
from segsrv.ops.token import kept_token
from segsrv.sinks.file.compression import compress
from segsrv.sinks.file.names import FileName
from segsrv.sinks.file.tail import FileTail
from segsrv.sinks.file.writer import place_of
from segsrv.write_keys import added_keys, with_keys
from tests.mmdb import mmdb_bytes
from tests.power.disk import Disk, Killed
from tests.power.parts import Journal, Sink, kept_letters, make_batch, make_letters, sent_lines
from tests.waiting import until

SEEDS = range(8)
CALLS_MAX = 200
BLOCK = 4_096


class Losses:
    """Makes every state that a power loss may leave of what was done so far."""

    def __init__(self, tmp_path: Path) -> None:
        self._folders = (tmp_path / str(number) for number in itertools.count())
        self.disk = self.new()

    def new(self) -> Disk:
        """Return an empty disk."""
        root = next(self._folders)
        root.mkdir()
        self.disk = Disk(root)
        return self.disk

    def states(self, seeds=SEEDS) -> Iterator[Path]:
        folder = next(self._folders)
        folder.mkdir()
        for name, state in self.disk.states(folder, seeds):
            try:
                yield state
            except BaseException as error:
                error.add_note(name)
                raise

    def killed_at_each_call(
        self, prepare: Callable[[Path], None], work: Callable[[Path], None]
    ) -> Iterator[Disk]:
        """Yield a disk, entered, for each call of *work* that its process may end at."""
        for after in range(CALLS_MAX):
            with self.new() as disk:
                prepare(disk.root)
                disk.end_process()
                disk.kill(after)
                try:
                    work(disk.root)
                except Killed:
                    disk.end_process()
                    yield disk
                else:
                    disk.end_process()
                    assert after, "no call was made"
                    return
        raise AssertionError("the work never ends")


@pytest.fixture
def losses(tmp_path):
    return Losses(tmp_path)


@pytest.fixture
def runner():
    with asyncio.Runner() as runner:
        yield runner


def nothing(_root: Path) -> None:
    """Prepare an empty disk."""


class TestFiles:
    def test_a_folder_that_was_made(self, losses):
        """Its name is safe, with those of its parents."""
        with losses.new() as disk:
            make_dir(disk.root / "a" / "b" / "c")
        assert all((state / "a" / "b" / "c").is_dir() for state in losses.states())

    def test_a_folder_that_somebody_else_made(self, losses):
        """He may have been killed before he synced its name; whoever uses it next does."""
        for disk in losses.killed_at_each_call(nothing, lambda root: make_dir(root / "a" / "b")):
            make_dir(disk.root / "a" / "b")
            assert all((state / "a" / "b").is_dir() for state in losses.states())

    @pytest.mark.parametrize("size", [1, 3 * BLOCK])
    def test_a_file_that_is_replaced(self, losses, size):
        """It holds the old bytes or the new at any time, and the new ones afterwards."""

        def put(root: Path, letter: bytes) -> None:
            replace_file(root / "file", letter * size)

        def check(expected: tuple[bytes, ...]) -> None:
            for state in losses.states():
                assert (state / "file").read_bytes() in [letter * size for letter in expected]

        for _disk in losses.killed_at_each_call(
            lambda root: put(root, b"a"), lambda root: put(root, b"b")
        ):
            check((b"a", b"b"))
        check((b"b",))

    def test_a_file_that_is_replaced_without_a_sync(self, losses):
        """That is for what may be lost; until then the new bytes are there."""
        with losses.new() as disk:
            for data in (b"1", b"2"):
                replace_file(disk.root / "file", data, is_synced=False)
                assert (disk.root / "file").read_bytes() == data

    def test_a_file_that_is_published(self, losses):
        """A file that somebody else wrote, without a sync, is safe under its new name."""
        with losses.new() as disk:
            (disk.root / "part").write_bytes(b"x" * 2 * BLOCK)
            publish(disk.root / "part", disk.root / "file")
        assert {(state / "file").read_bytes() for state in losses.states()} == {b"x" * 2 * BLOCK}

    async def test_a_database_that_is_fetched(self, losses, aiohttp_server):
        """After `geoip download` the database is there for good."""
        database = mmdb_bytes({"192.0.2.0/24": {"country": {"iso_code": "NO"}}}, "Test-City")

        async def serve(_request: web.Request) -> web.Response:
            return web.Response(body=gzip.compress(database))

        app = web.Application()
        app.router.add_get("/{path:.*}", serve)
        url = (await aiohttp_server(app)).make_url("/city.mmdb")
        with losses.new() as disk:
            target, source = disk.root / "city.mmdb", download.Source(urls=(url,))
            await asyncio.to_thread(download.fetch, source, target, is_quiet=True)
        assert {(state / "city.mmdb").read_bytes() for state in losses.states()} == {database}

    def test_a_key_that_is_made(self, losses):
        """The key that the first start prints is the key of all later ones."""
        with losses.new() as disk:
            (key,) = with_keys(Settings(data_dir=disk.root / "data")).all_keys()
        for state in losses.states():
            assert with_keys(Settings(data_dir=state / "data")).all_keys() == (key,)

    def test_a_key_that_is_added(self, losses):
        """The key that `segsrv key add` has printed is one of the server's from then on."""
        with losses.new() as disk:
            data_dir = disk.root / "data"
            assert cli.main(["key", "add", "web", f"--data-dir={data_dir}"]) == 0
            (key,) = added_keys(Settings(data_dir=data_dir))
        for state in losses.states():
            assert added_keys(Settings(data_dir=state / "data")) == (key,)

    def test_a_token_that_is_made(self, losses):
        """The token that the first start prints is the operators' from then on."""
        with losses.new() as disk:
            token = kept_token(Settings(data_dir=disk.root / "data"))
        assert token
        for state in losses.states():
            assert kept_token(Settings(data_dir=state / "data")) == token


class TestSlots:
    def save(self, root: Path, *payloads: bytes) -> None:
        file = SlotFile(root / "state" / "cursor", slot_bytes=2 * BLOCK)
        for payload in payloads:
            file.save(payload)
        file.close()

    def load(self, root: Path) -> tuple[bytes | None, bytes | None]:
        file = SlotFile(root / "state" / "cursor", slot_bytes=2 * BLOCK)
        slots = file.load()
        file.close()
        return slots.newest, slots.older

    def test_a_payload_that_was_saved(self, losses):
        """It is there, and so is the one before; at each call of a save one of both is."""
        payloads = [b"%d" % number * 3_000 for number in range(3)]
        for _disk in losses.killed_at_each_call(
            lambda root: self.save(root, *payloads[:2]), lambda root: self.save(root, payloads[2])
        ):
            for state in losses.states():
                assert self.load(state) in [
                    (payloads[1], payloads[0]),
                    (payloads[1], None),
                    (payloads[2], payloads[1]),
                ]
        for state in losses.states():
            assert self.load(state) == (payloads[2], payloads[1])

    def test_the_first_payload(self, losses):
        """The file is there with it, not only its bytes."""
        with losses.new() as disk:
            self.save(disk.root, b"1")
        assert all(self.load(state) == (b"1", None) for state in losses.states())

    def test_a_payload_that_was_loaded(self, losses):
        """What a killed process left is safe once another has loaded it, as is what that saves."""
        first, second = b"1" * 5_000, b"2" * 5_000
        for prepare in (nothing, lambda root: self.save(root, first)):
            for disk in losses.killed_at_each_call(prepare, lambda root: self.save(root, second)):
                found, _older = self.load(disk.root)
                for state in losses.states():
                    assert self.load(state)[0] == found
                self.save(disk.root, b"3")
                assert all(self.load(state)[0] == b"3" for state in losses.states())

    def test_a_damaged_file_is_kept_for_good(self, losses):
        """The copy is safe before the file is made again."""
        with losses.new() as disk:
            (disk.root / "state").mkdir()
            (disk.root / "state" / "cursor").write_bytes(b"x" * BLOCK)
        with Disk(disk.root) as losses.disk:
            self.load(disk.root)
        for state in losses.states():
            assert (state / "state" / "cursor.damaged-1").read_bytes() == b"x" * BLOCK


def journal_lines(state: Path) -> tuple[list[bytes], int]:
    """Return the lines of the journal in *state*, and how many pieces of it are damaged."""
    journal = Journal(state, position_min=0)
    position, found = journal.first, []
    while True:
        start, end, lines = journal.read(position)
        if end == start:
            break
        found += lines.splitlines(keepends=True)
        position = end
    journal.close()
    return found, journal.damaged


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM])
def test_a_kernel_that_has_no_write_with_its_own_sync(losses, code):
    """The frame is written again and synced, as are all that follow, and none is refused."""
    with losses.new() as disk:
        journal = Journal(disk.root, position_min=0)
        disk.fail(0, code, ("pwritev",))
        expected = []
        for number in range(3):
            expected.append(b'{"n":%d,"pad":"%s"}\n' % (number, b"x" * BLOCK))
            journal.append([expected[-1]])
            assert not disk.has_fault
            for state in losses.states(range(4)):
                assert journal_lines(state) == (expected, 0)
        journal.close()


@pytest.mark.usefixtures("sync_way")
class TestJournal:
    def test_an_event_that_was_acknowledged(self, losses):
        """It is there, in the first segment and in those that follow."""
        with losses.new() as disk:
            journal = Journal(disk.root, position_min=0)
            expected = []
            for number in range(9):
                expected.append(b'{"n":%d,"pad":"%s"}\n' % (number, b"x" * 2_500))
                journal.append([expected[-1]])
                for state in losses.states(range(2)):
                    assert journal_lines(state)[0] == expected
            assert len(list(disk.root.rglob("*.*"))) > 2
            journal.close()

    def test_an_event_that_was_written_in_pieces(self, losses):
        """Each piece that the kernel took is safe, not only the first."""
        with losses.new() as disk:
            disk.piece_bytes_max = BLOCK + 500
            journal = Journal(disk.root, position_min=0)
            expected = []
            for number in range(4):
                expected.append(b'{"n":%d,"pad":"%s"}\n' % (number, b"x" * 3 * BLOCK))
                journal.append([expected[-1]])
                for state in losses.states(range(4)):
                    assert journal_lines(state)[0] == expected
            journal.close()

    def test_a_folder_that_a_killed_server_made(self, losses):
        """An event is found again whoever made the journal's folder."""

        def start(root: Path) -> None:
            Journal(root, position_min=0).close()

        for disk in losses.killed_at_each_call(nothing, start):
            journal = Journal(disk.root, position_min=0)
            journal.append([b"{}\n"])
            for state in losses.states(range(2)):
                assert journal_lines(state)[0] == [b"{}\n"]
            disk.end_process()

    def test_the_id_of_a_journal(self, losses):
        """It lasts from the first start on, whoever began the journal's first segment."""

        def start(root: Path) -> str:
            journal = Journal(root, position_min=0)
            journal.close()
            return journal.id

        for disk in losses.killed_at_each_call(nothing, start):
            expected = start(disk.root)
            assert {start(state) for state in losses.states(range(2))} == {expected}

    def test_a_tail_that_was_cut_off(self, losses):
        """What a start took away does not come back as damage."""
        with losses.new() as disk:
            journal = Journal(disk.root, position_min=0)
            journal.append([b'{"n":1}\n'])
            disk.end_process()
            (newest,) = (path for path in disk.root.rglob("0*") if path.stat().st_size)
            with newest.open("ab") as file:
                file.write(b"\0" + b"x" * 30)
        with Disk(disk.root) as losses.disk:
            Journal(disk.root, position_min=0).close()
        for state in losses.states():
            assert journal_lines(state) == ([b'{"n":1}\n'], 0)


class TestDeadLetters:
    def test_a_letter_that_was_acknowledged(self, losses):
        """It is there, in the first file and in those that follow."""
        with losses.new() as disk:
            letters = make_letters(disk.root)
            expected = []
            for number in range(9):
                expected.append(b'{"time":%d,"pad":"%s"}\n' % (number, b"x" * 200))
                letters.append([expected[-1]])
                assert all(kept_letters(state) == expected for state in losses.states(range(2)))
            assert len(list(disk.root.rglob("*.ndjson"))) > 1

    def test_a_file_that_somebody_else_made(self, losses):
        """Its maker may have been killed before its name was safe."""

        def append(root: Path) -> None:
            make_letters(root).append([b'{"time":1}\n'])

        for disk in losses.killed_at_each_call(nothing, append):
            append(disk.root)
            for state in losses.states(range(2)):
                assert b'{"time":1}\n' in kept_letters(state)

    def test_a_name_that_could_not_be_synced(self, losses):
        """The retry syncs it."""
        with losses.new() as disk:
            letters = make_letters(disk.root)
            disk.fail(2, errno.EIO, ("fsync", "fdatasync"))
            for _try in range(5):
                try:
                    letters.append([b'{"time":1}\n'])
                except Unavailable:
                    continue
                break
            assert all(kept_letters(state) == [b'{"time":1}\n'] for state in losses.states())

    @pytest.mark.parametrize("is_restarted", [False, True])
    def test_parts_of_two_writes_never_make_one_line(self, losses, is_restarted):
        """What a write left that failed, or was killed, is gone before another takes its place."""
        first, second, third = (
            b'{"time":"%s"}\n' % (letter * (BLOCK + BLOCK // 2)) for letter in (b"a", b"b", b"c")
        )
        with losses.new() as disk:
            letters = make_letters(disk.root)
            letters.append([b'{"time":0}\n'])
            path = next(disk.root.rglob("*.ndjson"))
            if is_restarted:
                # Only a part was written when the process was killed.
                with path.open("ab") as file:
                    file.write(first[:-10])
                letters = make_letters(disk.root)
            else:
                disk.fail(0, errno.EIO, ("fdatasync",))
                with pytest.raises(Unavailable):
                    letters.append([first])
            lost = []

            def lose() -> None:
                if path.read_bytes().endswith(second):
                    lost.append(list(losses.states(range(400))))

            disk.watch = lose
            letters.append([second])
        assert lost
        for state in itertools.chain(*lost):
            make_letters(state).append([third])
            assert set(kept_letters(state)) <= {b'{"time":0}\n', first, second, third}


class TestFileSink:
    def test_a_batch_that_was_sent(self, losses, runner):
        """It is there: the first of a file, those behind it, and those in the next file."""
        with losses.new() as disk:
            sink, placement, expected = Sink(disk.root, runner), {}, []
            for number in range(8):
                lines = b'{"n":%d,"pad":"%s"}\n' % (number, b"x" * 3_000)
                batch = make_batch(f"w0-{number:020d}", lines)
                placement = sink.plan(batch, placement)
                sink.send(batch, placement)
                expected.append(lines)
                for state in losses.states(range(2)):
                    assert sorted(sent_lines(state)) == expected
            sink.close()
            assert len(list(disk.root.rglob("*.ndjson*"))) > 1

    def test_files_that_are_cut_off(self, losses):
        """They go for good, the last one first, so that those that are left have no gap."""
        files = ["1/a", "2/a", "3/a"]

        def make(root: Path) -> None:
            for file in files:
                make_dir((root / file).parent)
                replace_file(root / file, b"{}\n")

        def left(root: Path) -> list[str]:
            return [file for file in files if (root / file).exists()]

        for _disk in losses.killed_at_each_call(make, lambda root: FileTail(root, files, 3).cut()):
            for state in losses.states():
                assert left(state) == files[: len(left(state))]
        with losses.new() as disk:
            make(disk.root)
            with closing(FileTail(disk.root, files, 3)) as tail:
                tail.cut()
            assert all(left(state) == files[:1] for state in losses.states())

    def test_a_file_that_a_killed_writer_began(self, losses, runner):
        """What the next writer puts there and syncs is safe, with the name that it did not make."""
        line = b'{"n":1}\n'
        saved = place_of(str(FileName(datetime.now(UTC), "1a2b3c4d")), 0)

        def write(root: Path) -> None:
            writer = Sink(root, runner).writer
            with closing(writer.tail(saved)) as tail:
                place = writer.go_on(tail)
            writer.append([line], place)
            writer.sync()

        for disk in losses.killed_at_each_call(nothing, write):
            writer = Sink(disk.root, runner).writer
            with closing(writer.tail(saved)) as tail:
                lines, size = tail.matches(line)
                tail.keep(size)
                place = writer.go_on(tail)
            if not lines:
                writer.append([line], place)
                writer.sync()
            assert all(sent_lines(state) == [line] for state in losses.states())

    def test_a_batch_that_a_killed_server_began(self, losses, runner):
        """Sent again with its placement, it is there once, in a folder that is there."""
        batch = make_batch("w0-0", b'{"n":1}\n' * 600)
        planned: list[dict] = []

        def send(root: Path) -> None:
            sink = Sink(root, runner)
            try:
                planned[:] = [sink.plan(batch, {})]
                sink.send(batch, planned[0])
            finally:
                sink.close()

        for disk in losses.killed_at_each_call(nothing, send):
            if not planned:
                continue
            sink = Sink(disk.root, runner)
            sink.send(batch, planned[0])
            sink.close()
            for state in losses.states(range(2)):
                assert b"".join(sent_lines(state)) == batch.content

    @pytest.mark.parametrize("method", ["gzip", "zstd"])
    def test_a_file_that_is_compressed(self, losses, method):
        """Before, in between and afterwards there is one that is whole."""
        lines = [b'{"n":%d,"pad":"%s"}\n' % (number, b"x" * 99) for number in range(200)]

        def write(root: Path) -> None:
            make_dir(root / "events")
            replace_file(root / "events" / "1.ndjson", b"".join(lines))

        def work(root: Path) -> None:
            compress(root / "events" / "1.ndjson", method, lambda: False)

        for _disk in losses.killed_at_each_call(write, work):
            for state in losses.states(range(2)):
                assert sent_lines(state) == lines
        for state in losses.states():
            assert sent_lines(state) == lines


class TestSetAside:
    @pytest.mark.parametrize("has_links", [True, False])
    def test_a_part_that_a_sink_lacks(self, losses, has_links, monkeypatch):
        """It is there with its range and all its segments, also once the journal let go of them."""
        with losses.new() as disk:
            if not has_links:

                def refuse(*_arguments: object, **_options: object) -> None:
                    raise OSError(errno.EPERM, "Operation not permitted")

                monkeypatch.setattr(os, "link", refuse)
            journal, lines = Journal(disk.root, position_min=0), []
            for number in range(9):
                lines.append(b'{"n":%d,"pad":"%s"}\n' % (number, b"x" * 2_500))
                journal.append([lines[-1]])
            folder = disk.root / "journal" / "w0"
            aside = SetAside(disk.root / "set-aside" / "sink", bytes_max=1 << 20)
            marks = aside.move({"w0": (folder, journal.id, Mark(0), journal.end)}, keep_bytes=0)
            journal.release(marks["w0"].position)
            journal.close()
        assert marks
        for state in losses.states():
            ((path, part),) = parts_of(state / "set-aside" / "sink")
            found = Reader(path / "w0").read(0, bytes_max=1 << 20, end=part["end"][0])
            assert found.lines
            assert b"".join(lines).startswith(found.lines)
            assert found.end == part["end"][0]


class TestDedup:
    def kept(self, root: Path, position: int, count: int = 500) -> bytes:
        """Judge events of the same ids, from *position* on, and sync; return what is kept."""
        index = DedupIndex(root / "state" / "dedup", window_s=3_600, ids_max=1_200)
        self.set_aside = index.set_aside
        ids = [str(number) for number in range(count)]
        positions = range(position, position + count)
        kept = index.judge([Sent("key", "flat", 1_000_000, "ab" * 16, ids, positions)])
        assert index.sync()
        index.close()
        return kept

    def test_an_id_that_was_recorded(self, losses):
        """Once synced it is known for good, over all parts."""
        with losses.new() as disk:
            assert set(self.kept(disk.root, 0)) == {1}
        for state in losses.states():
            assert set(self.kept(state, 1_000)) == {0}

    def test_a_damaged_part(self, losses):
        """It is moved away once, so that the next start goes on without it."""
        with losses.new() as disk:
            self.kept(disk.root, 0)
            part = min(disk.root.rglob("*.ids"))
            part.write_bytes(b"x" * part.stat().st_size)
            self.kept(disk.root, 0)
            assert self.set_aside == 1
            self.kept(disk.root, 0)
            assert self.set_aside == 0


KEY = "k"


async def post(client, number: int) -> bool:
    event = {"type": "track", "event": "e", "userId": "u", "messageId": f"m{number}"}
    answer = await client.post(f"/v1/track?writeKey={KEY}", json=event | {"writeKey": KEY})
    return answer.status == 200


class TestServer:
    @pytest.mark.parametrize("seed", range(6))
    async def test_an_event_that_was_answered_with_200(
        self, losses, aiohttp_client, seed, tmp_path
    ):
        """The whole application loses power at some call, and has each event once afterwards."""

        def settings(root: Path) -> Settings:
            return Settings(data_dir=root / "data", write_key=(KEY,), flush_interval_s=0.01)

        answered: list[int] = []
        lost: list[tuple[Path, list[int]]] = []
        target = tmp_path / "after"
        # From the first answer on.
        calls_left = 3 + 17 * seed

        def watch() -> None:
            nonlocal calls_left
            calls_left -= bool(answered)
            if calls_left == 0 and not lost:
                lost.append((disk.lose_power(seed, target), list(answered)))

        with losses.new() as disk:
            disk.watch = watch
            client = await aiohttp_client(create_app(settings(disk.root)))
            for number in range(200):
                assert await post(client, number)
                answered.append(number)
                if lost:
                    break
            await client.close()
        ((state, promised),) = lost
        assert promised

        client = await aiohttp_client(create_app(settings(state)))
        assert await post(client, 10_000)

        def is_stored() -> bool:
            # What the power cut left at the end of a file goes before anything is written there.
            files = (state / "data" / "events").rglob("*.ndjson")
            return any(b'"m10000"' in path.read_bytes() for path in files)

        await until(is_stored)
        await client.close()
        found = sent_lines(state / "data")
        ids = [int(line.partition(b'"m')[2].partition(b'"')[0]) for line in found]
        assert len(ids) == len(set(ids))
        assert set(promised) <= set(ids)
