"""Compression loses no line when the power goes, and keeps none twice; nor does Parquet."""

import os
from pathlib import Path

import pytest

from segsrv.files import make_dir, sync_dir, write_all
from segsrv.sinks import parquet
from segsrv.sinks.file.compression import compress
from tests.power.parts import sent_lines
from tests.power.test_promises import Losses

LINES = [b'{"n":%d,"x":"%s"}\n' % (number, os.urandom(60).hex().encode()) for number in range(400)]


@pytest.fixture
def losses(tmp_path):
    return Losses(tmp_path)


@pytest.fixture(params=["gzip", "zstd", "parquet"])
def method(request, monkeypatch) -> str:
    if request.param == "parquet":
        monkeypatch.setattr(parquet, "Conversion", SeenConversion)
    return request.param


class SeenConversion(parquet.Conversion):
    """One whose file is written through `os`, so that the disk with losses sees it."""

    def __init__(self, source: int, target: int) -> None:
        self._seen = target
        self._unseen = os.memfd_create("unseen")
        super().__init__(source, self._unseen)

    def run(self) -> int:
        try:
            events = super().run()
            write_all(self._seen, [os.pread(self._unseen, 1 << 20, 0)])
        finally:
            os.close(self._unseen)
        return events


def path_in(root: Path) -> Path:
    return root / "events" / "2026-11-23" / "120000.000000-0a1b2c3d.ndjson"


def make_closed_file(root: Path) -> None:
    """Make a file as the sink leaves it: safe, and with no write permission."""
    path = path_in(root)
    make_dir(path.parent)
    with path.open("wb") as file:
        file.writelines(LINES)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o440)
    sync_dir(path.parent)


def test_lines_are_there_once_whenever_the_power_goes(losses, method):
    """At each call of the compression, and after it, with a second try behind."""

    def work(root: Path) -> None:
        assert compress(path_in(root), method, lambda: False)

    for _disk in losses.killed_at_each_call(make_closed_file, work):
        for state in losses.states(range(4)):
            assert sent_lines(state) == LINES
            compress(path_in(state), method, lambda: False)
            assert sent_lines(state) == LINES
            assert len(list(path_in(state).parent.iterdir())) == 1

    with losses.new() as disk:
        make_closed_file(disk.root)
        work(disk.root)
    for state in losses.states():
        assert sent_lines(state) == LINES


def test_what_is_complete_is_there_alone(losses, method, monkeypatch):
    """When the new file is complete, the original does not come back with the power."""
    complete_states = []
    chmod = Path.chmod

    def chmod_and_lose_power(path: Path, mode: int) -> None:
        if path.suffix != ".ndjson":
            complete_states.extend(losses.states(range(4)))
        chmod(path, mode)

    with losses.new() as disk:
        make_closed_file(disk.root)
        monkeypatch.setattr(Path, "chmod", chmod_and_lose_power)
        assert compress(path_in(disk.root), method, lambda: False)

    assert complete_states
    for state in complete_states:
        assert not path_in(state).exists()
