"""`segsrv check` finds what `serve` would fail on, and leaves everything as it is."""

import os
from dataclasses import replace

import pytest

from segsrv.cli import main
from segsrv.sinks.file import kind as file_kind
from tests.journal.segment_logs import flip
from tests.server_process import ServerProcess
from tests.site import Site


def listing(root) -> dict:
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_size, path.lstat().st_mode)
        for path in (root, *root.rglob("*"))
    }


@pytest.fixture
def used(tmp_path, monkeypatch):
    """A data directory that a server has used, and the folder that `check` runs in."""
    monkeypatch.chdir(tmp_path)
    with ServerProcess(tmp_path / "data", "--workers", "2") as process:
        assert Site(process).post({"type": "track", "userId": "u", "event": "e"}).status == 200
        process.wait_for_events(1)
    return tmp_path


def check(*flags) -> int:
    return main(["check", "--host", "127.0.0.1", "--port", "0", *flags])


class TestNothingChanges:
    def test_before_the_first_start(self, tmp_path, monkeypatch):
        """No folder, no key and no file is made."""
        monkeypatch.chdir(tmp_path)
        before = listing(tmp_path)
        assert check("--sink", "file:elsewhere/events") == 0
        assert listing(tmp_path) == before

    def test_where_a_server_was(self, used):
        """Names, sizes, times and modes are as they were."""
        before = listing(used)
        assert check() == 0
        assert listing(used) == before

    def test_where_things_are_broken(self, used, capsys):
        """What a start would mend or move is only named: it does start."""
        journal, state = used / "data" / "journal" / "w0", used / "data" / "state" / "sinks"
        (journal / "backup.segment").write_text("mine")
        os.mkfifo(journal / f"{7:020d}.segment")
        flip(state / "file.cursor", 20)
        os.mkfifo(state / "other.cursor")
        before = listing(used)
        assert check() == 0

        assert listing(used) == before
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(": warning: ")[2].partition(":")[0] for line in lines] == [
            f"journal/w0/{7:020d}.segment",
            "journal/w0/backup.segment",
            "state/sinks/file.cursor",
            "state/sinks/other.cursor",
        ]


@pytest.mark.parametrize(
    ("secrets", "part"),
    [
        ('{ token = { env = "NOT_THERE" } }', "NOT_THERE"),
        ('{ token = { file = "nowhere" } }', "nowhere"),
    ],
)
def test_a_secret_that_is_not_there(tmp_path, monkeypatch, capsys, secrets, part):
    """What a sink needs is read by the check as by a start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(file_kind, "FILE", replace(file_kind.FILE, secrets=("token",)))
    (tmp_path / "segsrv.toml").write_text(
        f'[[sinks]]\nname = "a"\nurl = "file:a"\nsecrets = {secrets}\n'
    )
    assert check("--config", "segsrv.toml") == 2

    printed = capsys.readouterr()
    assert "sinks.a.secrets.token" in printed.err
    assert part in printed.err
    assert printed.err.count("\n") == 1
