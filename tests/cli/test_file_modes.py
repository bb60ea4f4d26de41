"""What a server writes is closed to other users of the machine."""

import stat

import pytest

from segsrv.journal import frame, segments
from tests.site import Site, new_id, started_site
from tests.waiting import wait_until

FIRST_BYTE = segments.HEADER_BYTES + frame.HEADER_BYTES
FLAGS = ("--workers=2", "--flush-interval-s=0.01")


def modes(folder, *, is_file: bool) -> dict[int, list[str]]:
    """Return the modes below *folder*, each with the paths that have it."""
    found: dict[int, list[str]] = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) == is_file:
            found.setdefault(stat.S_IMODE(status.st_mode), []).append(str(path.relative_to(folder)))
    return found


def write_all_kinds(site: Site, key: str) -> None:
    """Have events, a dead letter and the workers' figures written."""
    event_id = new_id()
    batch = [1, {"type": "track", "messageId": event_id}]
    assert site.post({"batch": batch}, key=key).status == 200
    site.stored(event_id)
    assert site.dead_letters()
    state = site.process.data_dir / "state"
    wait_until(lambda: len(list(state.glob("metrics/w?.json"))) == 2)
    wait_until(lambda: list(state.glob("sinks/file.cursor")))


def damage_journal(data_dir) -> None:
    """Flip a byte in the first frame of each journal that holds one."""
    for path in data_dir.glob("journal/w*/*.segment"):
        if path.stat().st_size > FIRST_BYTE:
            data = bytearray(path.read_bytes())
            data[FIRST_BYTE] ^= 1
            path.write_bytes(data)


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
@pytest.mark.parametrize(
    ("flags", "file_mode", "dir_mode"),
    [
        pytest.param((), 0o640, 0o750, id="default"),
        pytest.param(("--file-mode=0644",), 0o644, 0o755, id="0644"),
    ],
)
def test_modes_do_not_depend_on_the_umask(tmp_path, umask, flags, file_mode, dir_mode):
    """Events, journal, cursors, figures, dead letters and damaged pieces have the set mode."""
    data = tmp_path / "data"
    options = {"write_keys": (), "umask": umask}
    with started_site(data, *FLAGS, *flags, **options) as site:
        write_all_kinds(site, (data / "state" / "write-key").read_text().strip())
    damage_journal(data)
    with started_site(data, *FLAGS, *flags, **options):
        wait_until(lambda: list(data.glob("journal/w*/*.damaged-*")))

    files = modes(data, is_file=True)
    assert files.pop(0o600) == ["state/write-key"]
    assert set(files) == {file_mode}, files
    assert set(modes(data, is_file=False)) == {dir_mode}
    assert stat.S_IMODE(data.stat().st_mode) == dir_mode


def test_what_an_earlier_start_left_open_is_closed(tmp_path):
    """The folders of the data directory are closed at the next start, with all that they hold."""
    data = tmp_path / "data"
    old = data / "events" / "2026-01-01" / "w0-0.ndjson"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    for path in (data, data / "events", old.parent):
        path.chmod(0o755)
    with started_site(data):
        assert stat.S_IMODE((data / "events").stat().st_mode) == 0o750
        # It may be the home of something else too.
        assert stat.S_IMODE(data.stat().st_mode) == 0o755


def test_a_folder_that_is_somewhere_else_is_left_alone(tmp_path):
    """A folder that the operator linked to, or named as a sink, keeps its mode."""
    (tmp_path / "data").mkdir()
    for name in ("linked", "named"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "data" / "events").symlink_to(tmp_path / "linked")
    with started_site(tmp_path / "data", f"--sink=file:{tmp_path / 'named'}"):
        for name in ("linked", "named"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o755
