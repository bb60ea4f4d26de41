"""The third-party sink of the documentation, installed as a package, beside the file sink."""

import asyncio
import contextlib
import hmac
import json
import random
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segsrv.errors import SinkMisconfigured, SinkRejected, SinkUnavailable
from segsrv.journal.facts import Facts
from segsrv.settings import Settings
from segsrv.sinks import Batch, Sink, registry
from tests.command import segsrv
from tests.faults.crashes import check_stored, kill_all
from tests.faults.load import Load
from tests.server_process import REPOSITORY, ServerProcess
from tests.site import Site, id_of
from tests.waiting import until, wait_until

SINKS = REPOSITORY / "docs" / "sinks.md"
SOURCE = REPOSITORY / "docs" / "example_sink"
SIGNING_KEY = "hunter2"
KILLS = 3
# Small files and batches, so that kills meet every border between them.
SMALL = (
    "--journal-segment-bytes-max=65536",
    "--flush-bytes-max=65536",
    "--flush-interval-s=0.01",
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """Return a folder with the example installed as pip installs it, and nothing else."""
    folder = tmp_path_factory.mktemp("example")
    # The build leaves files beside its source.
    shutil.copytree(SOURCE, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    flags = ["--no-build-isolation", "--target", str(folder / "packages")]
    subprocess.run([*pip, *flags, str(folder / "source")], check=True, timeout=120)
    return folder / "packages"


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "segsrv.toml"
    path.write_text(
        f"""
        sink = ["file:"]
        [[sinks]]
        name = "archive"
        url = "sqlite:{tmp_path}/archive.db?busy_timeout_s=10"
        secrets.signing_key = {{ env = "ARCHIVE_KEY" }}
        """
    )
    return path


def rows(path: Path) -> list[tuple[str, str]]:
    """Return the events of the database and their signatures, in order; none before it is made."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            return db.execute("SELECT event, hmac FROM events ORDER BY rowid").fetchall()
    except sqlite3.OperationalError:
        return []


def events(path: Path) -> list[str]:
    return [event for event, _seal in rows(path)]


class TestServer:
    async def test_both_sinks_have_every_event_once_across_kills(self, tmp_path, packages, config):
        """Killed in the middle of a load and started again, neither loses or doubles an event."""
        data, database = tmp_path / "data", tmp_path / "archive.db"
        environ = {"PYTHONPATH": str(packages), "ARCHIVE_KEY": SIGNING_KEY}
        flags = (*SMALL, "--config", str(config))
        chance, load = random.Random(7), Load(seed=7)
        for _round in range(KILLS):
            server = ServerProcess(data, *flags, environ=environ, umask=0)
            await asyncio.to_thread(server.start)
            try:
                async with load.running(server.port):
                    target = len(load.acknowledged) + chance.randrange(1, 1_000)
                    await until(lambda target=target: len(load.acknowledged) >= target)
                    kill_all(server)
            finally:
                kill_all(server)
        with ServerProcess(data, *flags, environ=environ, umask=0) as server:
            await until(lambda: len(server.events()) == len(rows(database)))
        assert server.exit_code == 0

        check_stored(server, load.acknowledged)
        counts = Counter(id_of(json.loads(event)) for event, _seal in rows(database))
        assert load.acknowledged <= counts.keys()
        assert set(counts.values()) == {1}
        assert counts.keys() == {id_of(event) for event in server.events()}
        for event, seal in rows(database):
            assert seal == hmac.digest(SIGNING_KEY.encode(), event.encode(), "sha256").hex()
        assert stat.S_IMODE(database.stat().st_mode) == 0o640
        assert SIGNING_KEY not in server.stdout + server.stderr
        assert "file (file:" in server.stdout
        assert f"archive (sqlite:{database})" in server.stdout

    def test_a_sink_in_trouble_leaves_the_other_alone(self, tmp_path, packages, config):
        """While the database can't be written the file sink delivers, and later both have all."""
        database = tmp_path / "archive.db"
        environ = {"PYTHONPATH": str(packages), "ARCHIVE_KEY": SIGNING_KEY}
        flags = ("--config", str(config), "--sink-retry-s-max=0.1", "--shutdown-grace-s=0.1")
        database.mkdir()
        with ServerProcess(tmp_path / "data", *flags, environ=environ) as server:
            Site(server).post({"type": "track", "event": "one", "userId": "u"})
            server.wait_for_events(1)
            database.rmdir()
            wait_until(lambda: len(rows(database)) == 1)
            Site(server).post({"type": "track", "event": "two", "userId": "u"})
            wait_until(lambda: len(rows(database)) == 2)
            assert len(server.wait_for_events(2)) == 2

    def test_check_says_what_would_run_and_changes_nothing(self, tmp_path, packages, config):
        """The same faults as at the start, in one line without a secret, and no file made."""
        environ = {"PYTHONPATH": str(packages), "ARCHIVE_KEY": SIGNING_KEY}
        before = sorted(tmp_path.iterdir())
        good = segsrv("check", "--config", str(config), cwd=tmp_path, **environ)
        assert good.returncode == 0, good.stderr
        assert f"archive (sqlite:{tmp_path}/archive.db)" in good.stdout

        text = config.read_text()
        for old, new, code, part in (
            ("archive.db", "nowhere/archive.db", 3, "nowhere can't be written"),
            ("busy_timeout_s=10", "busy_timeout_s=x", 2, "busy_timeout_s=x: expected a number"),
            ("busy_timeout_s", "busy", 2, "'busy' is unknown, expected busy_timeout_s"),
            ("signing_key", "password", 2, "'password' is unknown, expected signing_key"),
            ("ARCHIVE_KEY", "ARCHIVE", 2, "sinks.archive.secrets.signing_key.env=ARCHIVE: there"),
            (f"sqlite:{tmp_path}/archive.db", "sqlite:", 2, "sinks.archive: expected sqlite:PATH"),
        ):
            config.write_text(text.replace(old, new))
            ended = segsrv("check", "--config", str(config), cwd=tmp_path, **environ)
            assert ended.returncode == code, (old, ended)
            assert part in ended.stderr
            assert ended.stderr.count("\n") == 1, ended.stderr
            assert SIGNING_KEY not in ended.stderr + ended.stdout
        assert sorted(tmp_path.iterdir()) == before


class TestSink:
    """The module alone, which shows third parties what a sink has to do."""

    @pytest.fixture
    def make(self, tmp_path, packages, monkeypatch) -> Iterator[Callable[[], Sink]]:
        """Return a function that makes the configured sink, each time a new one."""
        monkeypatch.syspath_prepend(packages)
        options = {"busy_timeout_s": 0.01}
        table = {"name": "archive", "url": f"sqlite:{tmp_path}/archive.db", "options": options}
        settings = Settings(data_dir=tmp_path / "data", sinks=[table])
        yield lambda: registry.build(settings, environ={})[0].sink
        del sys.modules["segsrv_sqlite"]

    async def test_a_batch_that_is_sent_again_is_stored_once(self, tmp_path, make):
        """Also by another process, as after a crash between its commit and the cursor."""
        for numbers in ((0, 0), (0, 1)):
            sink = make()
            await sink.open()
            for number in numbers:
                batch = batch_of(f"a{number}", f"b{number}", number=number)
                await sink.send(batch, await sink.plan(batch, {}))
            await sink.close()

        assert events(tmp_path / "archive.db") == ['"a0"', '"b0"', '"a1"', '"b1"']

    async def test_a_rule_of_the_table_refuses_one_event(self, tmp_path, make):
        """The error names it, and nothing of the batch stays, so that the rest can be sent."""
        with contextlib.closing(sqlite3.connect(tmp_path / "archive.db")) as db:
            db.execute(
                "CREATE TABLE events (event_id TEXT, type TEXT, key_id TEXT, received_ms INTEGER, "
                "event TEXT CHECK (event <> '\"b\"'), hmac TEXT)"
            )
        sink = make()
        await sink.open()
        with pytest.raises(SinkRejected, match="CHECK constraint failed") as caught:
            await sink.send(batch_of("a", "b"), {})
        assert caught.value.indexes == (1,)
        assert events(tmp_path / "archive.db") == []
        await sink.send(batch_of("a"), {})
        await sink.close()

        assert events(tmp_path / "archive.db") == ['"a"']

    async def test_a_lock_passes_and_another_file_does_not(self, tmp_path, make):
        """Delivery learns whether trying again can help."""
        path = tmp_path / "archive.db"
        sink = make()
        await sink.open()
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("BEGIN IMMEDIATE")
            with pytest.raises(SinkUnavailable, match="locked"):
                await sink.send(batch_of("a"), {})
        await sink.send(batch_of("a"), {})
        await sink.close()
        assert events(path) == ['"a"']

        path.write_text("something else, which is no database " * 100)
        sink = make()
        with pytest.raises(SinkMisconfigured, match="not a database"):
            await sink.open()
        await sink.close()

    async def test_only_so_many_ids_are_kept(self, tmp_path, make, monkeypatch):
        """The table of batches does not grow without an end."""
        sink = make()
        monkeypatch.setattr(sys.modules["segsrv_sqlite"], "BATCHES_KEPT", 3)
        await sink.open()
        for number in range(10):
            await sink.send(batch_of("a", number=number), {})
        await sink.close()

        with contextlib.closing(sqlite3.connect(tmp_path / "archive.db")) as db:
            kept = [name for (name,) in db.execute("SELECT id FROM batches ORDER BY number")]
        assert kept == ["batch-7", "batch-8", "batch-9"]


def batch_of(*texts: str, number: int = 0) -> Batch:
    lines = [json.dumps(text).encode() + b"\n" for text in texts]
    facts = [Facts("web", "flat", 1, "track", len(line), "id") for line in lines]
    return Batch(f"batch-{number}", lines, len(lines), lambda: facts)


def test_the_documentation_quotes_it_as_it_is():
    """The pieces of code in docs/sinks.md are pieces of the example."""
    module = (SOURCE / "segsrv_sqlite.py").read_text()
    quoted = re.findall(r"```python\n(.*?)```", SINKS.read_text(), re.DOTALL)

    assert quoted
    for piece in quoted:
        assert piece in module
