"""What is driven over a disk that loses power, each part through its public class.

A change of a part's interface is met here, and nowhere else in this folder.
"""

import asyncio
import gzip
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from segsrv.delivery import bundle as bundles
from segsrv.delivery.bundle import Limits
from segsrv.delivery.cursor import Mark
from segsrv.delivery.resuming import pass_over
from segsrv.delivery.source import LeftSource
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.log import SegmentLog
from segsrv.sinks.base import Batch, Placement
from segsrv.sinks.file.names import replacing_names
from segsrv.sinks.file.sink import FileSink
from segsrv.sinks.file.writer import FileWriter
from tests.parquet_files import lines_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SEGMENT_BYTES_MAX = 6_000
SINK_FILE_BYTES_MAX = 12_000
LETTER_BYTES_MAX = 16 * 600
READ_BYTES = 5_000
READ_EVENTS = 7
READERS: dict[str, Callable[[bytes], bytes]] = {
    ".ndjson": bytes,
    ".gz": gzip.decompress,
    ".zst": zstd.decompress,
    ".parquet": lines_of,
}


class Journal:
    """A journal with small segments; without *has_dsync* each frame takes a write and a sync."""

    def __init__(self, data_dir: Path, *, position_min: int, has_dsync: bool = True) -> None:
        self._log = SegmentLog(
            data_dir / "journal" / "w0",
            segment_bytes_max=SEGMENT_BYTES_MAX,
            disk_free_bytes_min=0,
            is_synced=True,
            position_min=position_min,
        )
        self._log.writer.has_dsync &= has_dsync

    @property
    def source(self) -> LeftSource:
        """The journal as delivery has it."""
        return LeftSource("w0", self._log, retention_s=0)

    @property
    def first(self) -> int:
        return self._log.first

    @property
    def end(self) -> int:
        return self._log.end

    @property
    def id(self) -> str:
        return self._log.id

    @property
    def damaged(self) -> int:
        return self._log.damaged_frames

    def append(self, lines: list[bytes]) -> None:
        self._log.append(b"".join(lines), len(lines))

    def read(self, position: int, end: int | None = None) -> tuple[int, int, bytes]:
        """Return where what follows *position* starts and ends, and its lines."""
        chunk = self._log.read(position, bytes_max=READ_BYTES, end=end)
        return chunk.start, chunk.end, chunk.lines

    def release(self, position: int) -> None:
        self._log.release(position)

    def close(self) -> None:
        self._log.close()


class Sink:
    """A file sink with small files, driven without a loop of the caller's."""

    def __init__(self, data_dir: Path, runner: asyncio.Runner) -> None:
        self._sink = FileSink(data_dir / "events", file_bytes_max=SINK_FILE_BYTES_MAX)
        self._run = runner.run
        self._is_open = False

    def plan(self, batch: Batch, last: Placement) -> Placement:
        if not self._is_open:
            self._run(self._sink.open())
            self._is_open = True
        return self._run(self._sink.plan(batch, last))

    def send(self, batch: Batch, placement: Placement) -> None:
        if not self._is_open:
            self._run(self._sink.open())
            self._is_open = True
        self._run(self._sink.send(batch, placement))

    def find_place(self, journal: Journal, mark: Mark, last: Placement) -> tuple[Mark, Placement]:
        """Pass over what the files have behind *last*; return the mark and the placement then."""
        writer = self._sink.writer
        with closing(writer.tail(last)) as tail:
            moved = pass_over(tail, [journal.source], {"w0": mark}, lambda slices: slices)
            return moved["w0"], writer.go_on(tail)

    def append(self, journal: Journal, mark: Mark, last: Placement) -> tuple[Mark, Placement]:
        """Send what the journal has behind *mark*; return the mark and the placement then."""
        limits = Limits(READ_EVENTS, READ_BYTES, 0.0)
        bundle = bundles.read([journal.source], {"w0": mark}, limits)
        if not bundle.spans:
            return mark, last
        if bundle.slices:
            parts = [bundles.content_of(part) for part in bundle.slices]
            last, is_written = self._sink.writer.append(parts, last)
            assert is_written, "the clock went back by a day"
        return bundle.spans["w0"].end, last

    @property
    def writer(self) -> FileWriter:
        return self._sink.writer

    def close(self) -> None:
        self._run(self._sink.close())


def make_letters(data_dir: Path) -> DeadLetters:
    return DeadLetters(data_dir / "dead-letter", prefix="w0", bytes_max=LETTER_BYTES_MAX)


def make_batch(batch_id: str, lines: bytes) -> Batch:
    return Batch(batch_id, [lines], lines.count(b"\n"), list)


def sent_lines(data_dir: Path) -> list[bytes]:
    """Return all lines of the sink's files, read as users are told to."""
    found = []
    for path in sorted((data_dir / "events").rglob("*")):
        read = READERS.get(path.suffix)
        is_replaced = path.suffix == ".ndjson" and any(
            name.exists() for name in replacing_names(path)
        )
        if read is not None and not is_replaced:
            found += _lines(path, read(path.read_bytes()))
    return found


def kept_letters(data_dir: Path) -> list[bytes]:
    paths = sorted((data_dir / "dead-letter").glob("*.ndjson"))
    return [line for path in paths for line in _lines(path, path.read_bytes())]


def _lines(path: Path, data: bytes) -> list[bytes]:
    assert data.endswith(b"\n") or not data, f"{path.name} ends with half a line"
    return data.splitlines(keepends=True)
