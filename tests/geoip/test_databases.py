"""Databases that are replaced while they are in use: the newest whole one answers, always."""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import maxminddb
import pytest

from segsrv.errors import SettingsError
from segsrv.files import file_version
from segsrv.geoip.databases import Databases
from tests.mmdb import mmdb_bytes, write_mmdb
from tests.waiting import until, wait_until

ADDRESS = "81.2.69.142"
INTERVAL_S = 0.005


def city(name: str, *, padding: int = 0) -> dict:
    """Return networks where `ADDRESS` is in *name*; *padding* more networks make a larger file."""
    networks = {f"{ADDRESS}/32": {"city": {"names": {"en": name}}}}
    for number in range(padding):
        networks[f"10.{number >> 8}.{number & 255}.0/24"] = {"city": {"names": {"en": f"{number}"}}}
    return networks


def located(databases: Databases) -> str | None:
    found = databases.geo.locate(ADDRESS)
    return found["city"] if found else None


@pytest.fixture
def path(tmp_path):
    return write_mmdb(tmp_path / "city.mmdb", city("Old"))


@pytest.fixture
def databases(tmp_path, path):
    return Databases([path], entries_max=100, copy_dir=tmp_path / "state")


@asynccontextmanager
async def watching(databases: Databases) -> AsyncIterator[list[str | None]]:
    """Watch for the length of an `async with` block; the list gets an answer at each reload."""
    answers: list[str | None] = []
    watch = asyncio.create_task(
        databases.watch(INTERVAL_S, lambda: answers.append(located(databases)))
    )
    try:
        yield answers
        assert not watch.done(), "the watch ended"
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def seen(databases: Databases, path: Path) -> None:
    """Wait until the watch has looked at *path* as it is now."""
    version = file_version(path)
    await until(lambda: version in (databases._versions[0], databases._refused.get(path)))


def overwrite(path: Path, data: bytes) -> None:
    """Write over a file in place, as `cp` and many downloaders do."""
    with path.open("wb") as file:
        file.write(data)


class TestReplacement:
    async def test_replaced_as_a_whole(self, databases, path, tmp_path):
        """A new file moved over the old one answers soon, and the cache forgets the old answers."""
        async with watching(databases) as answers:
            assert located(databases) == "Old"
            write_mmdb(tmp_path / "new", city("New")).replace(path)
            await until(lambda: located(databases) == "New")

        assert answers == ["New"]
        assert databases.reloads == 1

    async def test_overwritten_in_place(self, databases, path):
        """A file truncated and written again in place never cuts off the reader that uses it."""
        async with watching(databases):
            for number in range(5):
                name = f"New {number}"
                overwrite(path, mmdb_bytes(city(name, padding=300 * (number % 2))))
                await until(lambda name=name: located(databases) == name)

    async def test_old_readers_outlive_the_file(self, tmp_path):
        """Look-ups go on while the file below them is empty, half written or gone."""
        large = city("Old", padding=2_000)
        path = write_mmdb(tmp_path / "city.mmdb", large)
        databases = Databases([path], entries_max=1, copy_dir=tmp_path / "state")
        async with watching(databases):
            for data in (b"", mmdb_bytes(large)[:1_000], os.urandom(5_000)):
                overwrite(path, data)
                await seen(databases, path)
                # Addresses that are not in the cache, so that the file's own pages are read.
                found = [databases.geo.locate(f"10.0.{number}.1") for number in range(256)]
                assert [fields["city"] for fields in found] == [str(n) for n in range(256)]
            path.unlink()
            assert located(databases) == "Old"

    async def test_half_written_then_completed(self, databases, path):
        """Half a file is not taken and not the last word: the whole one is, when it is there."""
        new = mmdb_bytes(city("New", padding=300))
        async with watching(databases) as answers:
            with path.open("wb") as file:
                file.write(new[: len(new) // 2])
                file.flush()
                await seen(databases, path)
                assert located(databases) == "Old"
                file.write(new[len(new) // 2 :])
            await until(lambda: located(databases) == "New")

        assert answers == ["New"]

    async def test_a_passing_reason_is_no_refusal(self, databases, path, tmp_path):
        """A replacement that could not be copied for want of a place is taken when there is one."""
        state = tmp_path / "state"
        state.rmdir()
        state.write_text("in the way")
        async with watching(databases):
            overwrite(path, mmdb_bytes(city("New")))
            await seen(databases, path)
            assert located(databases) == "Old"
            state.unlink()
            await until(lambda: located(databases) == "New")

    async def test_removed_and_brought_back(self, databases, path, tmp_path):
        """While a file is away the old answers stay; the one that comes is used."""
        async with watching(databases):
            path.unlink()
            assert located(databases) == "Old"
            write_mmdb(tmp_path / "new", city("New")).replace(path)
            await until(lambda: located(databases) == "New")

    @pytest.mark.parametrize("data", [b"", b"no database", bytes(10_000)])
    async def test_garbage_keeps_the_old_one(self, databases, path, data, caplog):
        """A file that is no database is reported and changes no answer; a later good one does."""
        async with watching(databases) as answers:
            overwrite(path, data)
            await seen(databases, path)
            await until(lambda: "replacement not readable" in caplog.text)
            assert located(databases) == "Old"
            overwrite(path, mmdb_bytes(city("New")))
            await until(lambda: located(databases) == "New")

        assert answers == ["New"]

    async def test_one_of_several(self, tmp_path):
        """Each database is followed by itself; the others keep answering."""
        paths = [
            write_mmdb(tmp_path / "city.mmdb", city("Old")),
            write_mmdb(tmp_path / "isp.mmdb", {f"{ADDRESS}/32": {"isp": "Old ISP"}}),
        ]
        databases = Databases(paths, entries_max=100, copy_dir=None)
        async with watching(databases):
            overwrite(paths[1], mmdb_bytes({f"{ADDRESS}/32": {"isp": "New ISP"}}))
            await until(lambda: databases.reloads == 1)

        assert databases.geo.locate(ADDRESS) == {"city": "Old", "isp": "New ISP"}

    async def test_the_loop_is_not_held_up_by_a_slow_disk(self, databases, path, monkeypatch):
        """While a database is being opened, however long it takes, the loop serves others."""
        is_opening, may_open = threading.Event(), threading.Event()
        open_database = maxminddb.open_database

        def open_slowly(*arguments):
            is_opening.set()
            assert may_open.wait(10)
            return open_database(*arguments)

        monkeypatch.setattr(maxminddb, "open_database", open_slowly)
        async with watching(databases):
            overwrite(path, mmdb_bytes(city("New")))
            # This turns the loop, which a blocking open would stop for good.
            await until(is_opening.is_set)
            assert located(databases) == "Old"
            may_open.set()
            await until(lambda: located(databases) == "New")

    async def test_counts_go_on(self, databases, path):
        """Hits and misses are counted across reloads."""
        located(databases)
        located(databases)
        async with watching(databases):
            overwrite(path, mmdb_bytes(city("New")))
            await until(lambda: databases.reloads == 1)

        assert databases.hits >= 1
        assert databases.misses >= 2


class TestFiles:
    async def test_copies_leave_nothing_behind(self, databases, path, tmp_path):
        """The private copies of databases, also of unreadable ones, don't pile up on disk."""
        async with watching(databases):
            overwrite(path, b"no database")
            await seen(databases, path)
            overwrite(path, mmdb_bytes(city("New")))
            await until(lambda: databases.reloads == 1)

        assert list((tmp_path / "state").iterdir()) == []

    @pytest.mark.parametrize("kind", ["missing", "empty", "garbage", "folder"])
    def test_the_first_open_must_succeed(self, tmp_path, kind):
        """A start with a file that is no database ends with an error that names it."""
        path = tmp_path / "city.mmdb"
        match kind:
            case "empty":
                path.write_bytes(b"")
            case "garbage":
                path.write_bytes(b"garbage" * 100)
            case "folder":
                path.mkdir()

        with pytest.raises(SettingsError, match=r"geoip_db=.*city\.mmdb: "):
            Databases([path], entries_max=1, copy_dir=tmp_path / "state")


class TestCopies:
    def test_a_kill_leaves_none_behind(self, tmp_path):
        """A process that is killed while it copies a database leaves nothing on the disk."""
        source, state = tmp_path / "large.mmdb", tmp_path / "state"
        with source.open("wb") as file:
            file.truncate(1 << 30)
        state.mkdir()
        child = multiprocessing.get_context("fork").Process(
            target=Databases, args=([source],), kwargs={"entries_max": 1, "copy_dir": state}
        )
        child.start()
        written = Path(f"/proc/{child.pid}/io")
        wait_until(lambda: int(written.read_text().split()[3]) > 1 << 20)
        child.kill()
        child.join()

        assert child.exitcode == -signal.SIGKILL
        assert list(state.iterdir()) == []

    def test_those_of_earlier_releases_are_removed(self, tmp_path, path):
        """A start removes the copies that lie there, and nothing that somebody else put there."""
        state = tmp_path / "state"
        state.mkdir()
        old = state / "geoip-ab_1z9xx.mmdb"
        old.write_bytes(b"x")
        old.chmod(0o600)
        own = write_mmdb(state / "geoip-mycities.mmdb", city("Old"))
        own.chmod(0o600)
        others = [state / "geoip-city.mmdb", state / "geoip-ab_1z9xy.mmdb", state / "w0-file.json"]
        for other in others:
            other.write_bytes(b"x")
            other.chmod(0o640)

        databases = Databases([path, own], entries_max=1, copy_dir=state)

        assert located(databases) == "Old"
        assert set(state.iterdir()) == {own, *others}
