"""The id of a data directory: the same at each start, another one in a copy."""

import shutil

import pytest

from segsrv.delivery import origin
from segsrv.delivery.origin import open_origin
from tests.disks import fill
from tests.faults.disks import mount, unmount


@pytest.fixture
def data_dir(tmp_path):
    data_dir = tmp_path / "data"
    (data_dir / "state").mkdir(parents=True)
    return data_dir


def opened(data_dir):
    return open_origin(data_dir / "state" / "origin")


def test_it_stays_the_same_over_starts_and_moves(data_dir, tmp_path):
    """Sinks recognise the server after a restart, and after its directory was renamed."""
    first = opened(data_dir)
    assert len(first) == 32
    assert opened(data_dir) == first
    moved = data_dir.rename(tmp_path / "moved")
    assert opened(moved) == first


@pytest.mark.parametrize("part", ["", "state", "state/origin"])
def test_a_copy_has_another(data_dir, tmp_path, part, caplog):
    """Both may run at once, so a sink must not take one for the other; also of a part that was
    copied over it.
    """
    first = opened(data_dir)
    copy = tmp_path / "copy"
    shutil.copytree(data_dir, copy)
    second = opened(copy)
    assert second != first
    assert opened(copy) == second
    assert opened(data_dir) == first
    assert "copied" in caplog.text
    if part:
        place, kept = data_dir / part, tmp_path / "kept"
        place.rename(kept)
        (shutil.copytree if kept.is_dir() else shutil.copy2)(kept, place)
        assert opened(data_dir) != first


def test_so_has_a_clone_on_another_machine(data_dir, tmp_path, monkeypatch):
    """A disk image keeps all inodes; the machine's id tells it."""
    first = opened(data_dir)
    machine_id = tmp_path / "machine-id"
    machine_id.write_text("another machine\n")
    monkeypatch.setattr(origin, "MACHINE_ID", machine_id)
    assert opened(data_dir) != first


def test_what_cannot_be_kept_is_no_error(tmp_path, caplog):
    """Events go on; a sink that knows servers by this id just doesn't know this one again."""
    disk = tmp_path / "full"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", "size=64k", "tmpfs")
    try:
        (disk / "data" / "state").mkdir(parents=True)
        fill(disk)
        assert opened(disk / "data") != opened(disk / "data")
    finally:
        unmount(disk)
    assert "can't be kept" in caplog.text


def test_damage_makes_a_new_one(data_dir):
    """A guess could be another's."""
    first = opened(data_dir)
    path = data_dir / "state" / "origin"
    path.write_bytes(b"x" * path.stat().st_size)
    assert opened(data_dir) != first
