"""The file sink's oldest closed files go when they are too old or too many, and nothing else."""

import os
import time
from pathlib import Path

import pytest

from segsrv.sinks.file.upkeep import SCAN_INTERVAL_S
from tests.delivery.stored_files import batch, names, opened, put, stored
from tests.waiting import until

DAY_S = 86_400
MARK = "0a1b2c3d"


def make(
    directory: Path,
    day: str,
    name: str = f"120000.000000-{MARK}.ndjson",
    *,
    age_s: float = 0,
    size: int = 100,
    mode: int = 0o440,
) -> Path:
    """Make a file that got its last event *age_s* ago."""
    path = directory / "events" / day / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b" " * (size - 1) + b"\n")
    path.chmod(mode)
    touched_s = time.time() - age_s
    os.utime(path, (touched_s, touched_s))
    return path


class TestAge:
    async def test_what_is_older_goes(self, tmp_path, monkeypatch, caplog):
        """Files go by the time of their last event, compressed ones and their folders too."""
        caplog.set_level("INFO")
        old = [
            make(tmp_path, "2026-01-01", age_s=11),
            make(tmp_path, "2026-01-02", f"120000.000000-{MARK}.ndjson.gz", age_s=12),
            make(tmp_path, "2026-01-02", f"130000.000000-{MARK}.ndjson.zst", age_s=12),
            make(tmp_path, "2026-01-03", f"120000.000000-{MARK}-w0-1.ndjson", age_s=12),
        ]
        young = make(tmp_path, "2026-01-03", age_s=0)
        async with opened(monkeypatch, tmp_path, file_retention_s=10.0) as sink:
            await until(lambda: sink.stats.files_deleted == len(old))

        assert sink.stats.bytes_deleted == 400
        assert "files=4 bytes=400" in caplog.text
        assert [path for path in (tmp_path / "events").rglob("*") if path.is_file()] == [young]
        assert [path.name for path in (tmp_path / "events").iterdir()] == ["2026-01-03"]

    async def test_the_open_file_stays(self, tmp_path, monkeypatch):
        """A file that may be written to stays, until it is long abandoned."""
        open_file = make(tmp_path, "2026-01-01", age_s=DAY_S, mode=0o640)
        abandoned = make(tmp_path, "2026-01-02", age_s=3 * DAY_S, mode=0o640)
        earlier = f"w0-w0-file-{7:020d}-{MARK}.ndjson"
        of_earlier_release = make(tmp_path, "2026-01-03", earlier, age_s=3 * DAY_S, mode=0o640)
        async with opened(monkeypatch, tmp_path, file_retention_s=10.0) as sink:
            await until(lambda: sink.stats.files_deleted == 2)

        assert open_file.exists()
        assert not abandoned.exists()
        assert not of_earlier_release.exists()

    async def test_files_are_looked_at_again(self, tmp_path, monkeypatch):
        """What gets too old while the server runs goes too."""
        monkeypatch.setattr("segsrv.sinks.file.upkeep.SCAN_INTERVAL_S", 0.01)
        assert SCAN_INTERVAL_S <= 60
        async with opened(monkeypatch, tmp_path, file_retention_s=10.0) as sink:
            path = make(tmp_path, "2026-01-01")
            for round_number in (1, 2):
                make(tmp_path, "2026-01-01", age_s=11).rename(path)
                await until(lambda count=round_number: sink.stats.files_deleted == count)


class TestTotal:
    async def test_the_oldest_go_first(self, tmp_path, monkeypatch):
        """As many of the oldest as it takes, by name; the open one counts too."""
        paths = [make(tmp_path, f"2026-01-0{day}", age_s=day) for day in range(1, 6)]
        make(tmp_path, "2026-01-06", mode=0o640)
        async with opened(monkeypatch, tmp_path, file_total_bytes_max=350) as sink:
            await until(lambda: sink.stats.files_deleted)

        assert [path.exists() for path in paths] == [False] * 3 + [True] * 2

    @pytest.mark.parametrize("compression", ["none", "gzip"])
    async def test_while_events_come(self, tmp_path, monkeypatch, compression):
        """A busy sink stays below its limit and keeps the newest events."""
        options = {"file_bytes_max": 1_000, "file_total_bytes_max": 3_000}
        async with opened(monkeypatch, tmp_path, file_compress=compression, **options) as sink:
            last: dict = {}
            for number in range(2_000):
                last = await put(sink, batch(number), last)
            await until(lambda: sink._upkeep._scan_at_s)
            await until(lambda: size_of(tmp_path) <= 3_000)

        lines = stored(tmp_path)
        assert lines == [b'{"n":%d}\n' % number for number in range(2_000)][-len(lines) :]
        assert sink.stats.files_deleted

    async def test_one_file_alone(self, tmp_path, monkeypatch):
        """The file that is written to stays, even if it is larger than the limit."""
        async with opened(monkeypatch, tmp_path, file_total_bytes_max=5) as sink:
            last = await put(sink, batch(1, 2, 3), {})
            sink._upkeep._scan()
            await put(sink, batch(4), last)

        assert len(stored(tmp_path)) == 4

    async def test_one_that_can_not_be_deleted(self, tmp_path, monkeypatch, caplog):
        """It is counted and said once, and the sink goes on."""
        make(tmp_path, "2026-01-01")

        def refuse(*_arguments, **_options) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "unlink", refuse)
        async with opened(monkeypatch, tmp_path, file_total_bytes_max=5) as sink:
            await until(lambda: sink.stats.faults)
            await put(sink, batch(1), {})

        assert caplog.text.count("Operation not permitted") == 1
        assert len(names(tmp_path)) == 2


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in (directory / "events").rglob("*") if path.is_file())
