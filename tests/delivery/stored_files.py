"""Reads the file sink's files as docs/files.md tells readers to, and sets its clock."""

import gzip
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from segsrv.sinks.base import Batch
from segsrv.sinks.file import sink as file_module
from segsrv.sinks.file import upkeep as file_upkeep
from segsrv.sinks.file import writer as file_writer
from segsrv.sinks.file.compression import zstd
from segsrv.sinks.file.names import method_of, replaced_name, replacing_names
from segsrv.sinks.file.sink import FileSink
from tests.parquet_files import lines_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
MIB = 1 << 20
TICK_S = 0.005
READERS: dict[str, Callable[[bytes], bytes]] = {
    ".ndjson": bytes,
    ".gz": gzip.decompress,
    ".zst": zstd.decompress,
    ".parquet": lines_of,
}


def batch(*numbers: int) -> Batch:
    lines = b"".join(b'{"n":%d}\n' % number for number in numbers)
    return of_lines(lines, f"test-{numbers[0]}")


def of_lines(lines: bytes, batch_id: str = "test-3") -> Batch:
    return Batch(batch_id, [lines], lines.count(b"\n"), list)


def files(directory: Path) -> list[Path]:
    """Return the files that a reader reads, oldest first: of two for one, the new one."""
    found = {path for path in (directory / "events").rglob("*") if path.suffix in READERS}
    twice = {replaced_name(path) for path in found if path.suffix != ".ndjson"}
    return sorted(found - twice)


def replacing(path: Path, method: str) -> Path:
    """Return the name of the file that replaces *path*."""
    return next(name for name in replacing_names(path) if method_of(name) == method)


def stored(directory: Path) -> list[bytes]:
    """Return all lines, whatever file they are in."""
    data = [READERS[file.suffix](file.read_bytes()) for file in files(directory)]
    assert all(part.endswith(b"\n") for part in data if part), "a torn line"
    return b"".join(data).splitlines(keepends=True)


def names(directory: Path) -> list[str]:
    """Return the names of everything that is no folder, whoever made it, day by day."""
    return [path.name for path in sorted((directory / "events").rglob("*")) if not path.is_dir()]


def set_clock(monkeypatch, now: datetime) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, _zone=None) -> datetime:
            return now

    for module in (file_module, file_writer):
        monkeypatch.setattr(module, "datetime", Clock)


@asynccontextmanager
async def opened(monkeypatch, directory: Path, **options):
    """Yield an open file sink that looks after its files every few milliseconds."""
    monkeypatch.setattr(file_upkeep, "TICK_S", TICK_S)
    sink = FileSink(directory / "events", **({"file_bytes_max": MIB} | options))
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


async def put(sink: FileSink, part: Batch, last: dict) -> dict:
    placement = await sink.plan(part, last)
    await sink.send(part, placement)
    return placement
