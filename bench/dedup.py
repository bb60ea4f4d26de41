"""What deduplication costs: memory, disk, time an event and time of a restart, by number of ids.

    python bench/dedup.py [--ids 10000000] [--scratch DIR]

An index is filled with random ids in batches of 5,000, as delivery does: judge, sync, settle. At
each size in the table fresh ids are judged, then ids that it knows, and then it is opened again.
The baseline is SQLite with the same ids as the key of a table, in the same batches; its table is
filled in the order of its keys first, which is the quickest way to that size, and not measured.
Every judgement is checked. Processor time is measured, since it depends less on neighbours.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import machine

from segsrv.delivery.dedup import DedupIndex, Sent

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH_EVENTS = 5_000
REQUEST_EVENTS = 50
MEASURED_BATCHES = 20
NOW_MS = 1_790_000_000_000
WINDOW_S = 86_400.0
JOURNAL_ID = "0123456789abcdef" * 2
COLUMNS = (
    "ids",
    "store",
    "fresh: CPU µs an event",
    "fresh: bytes written an event",
    "known: CPU µs an event",
    "sync or commit ms (max)",
    "memory MiB",
    "disk MiB",
    "restart: CPU s",
)


class Row(NamedTuple):
    """One line of the table; bytes are whole, and become MiB in the text."""

    ids: int
    store: str
    fresh_us: float
    written: float
    known_us: float
    sync_ms: list[float]
    memory: int
    disk: int
    restart_s: float

    def text(self) -> str:
        cells = (
            f"{self.ids:,}",
            self.store,
            f"{self.fresh_us:.1f}",
            f"{self.written:,.0f}",
            f"{self.known_us:.1f}",
            f"{statistics.median(self.sync_ms):.1f} ({max(self.sync_ms):.1f})",
            f"{self.memory >> 20}",
            f"{self.disk >> 20}",
            f"{self.restart_s:.2f}",
        )
        return f"| {' | '.join(cells)} |"


class Wrong(Exception):
    """The index judged an event as it must not."""


class Timer:
    """Processor time and bytes given to the disk since it was made."""

    def __init__(self) -> None:
        self._cpu_s, self._written = time.process_time(), bytes_written()

    def us_an_event(self) -> float:
        return (time.process_time() - self._cpu_s) / (MEASURED_BATCHES * BATCH_EVENTS) * 1e6

    def bytes_an_event(self) -> float:
        return (bytes_written() - self._written) / (MEASURED_BATCHES * BATCH_EVENTS)


class Index:
    """The index at work, and where it got to."""

    def __init__(self, folder: Path, ids_max: int) -> None:
        self.folder = folder
        self.ids_max = ids_max
        self.memory_before = resident_bytes()
        self.index = self.open()
        self.position = 0

    def open(self) -> DedupIndex:
        return DedupIndex(self.folder, window_s=WINDOW_S, ids_max=self.ids_max)

    def batch(self, first_id: int) -> list[Sent]:
        """Return events with the ids from number *first_id* on, at positions of their own."""
        requests = []
        for start in range(first_id, first_id + BATCH_EVENTS, REQUEST_EVENTS):
            ids = [event_id(number) for number in range(start, start + REQUEST_EVENTS)]
            positions = range(self.position, self.position + REQUEST_EVENTS)
            requests.append(Sent("web", "flat", NOW_MS, JOURNAL_ID, ids, positions))
            self.position += REQUEST_EVENTS
        return requests

    def deliver(self, batches: list[list[Sent]], expected: int) -> list[float]:
        """Judge *batches* as delivery does; return how long each sync took, in ms."""
        sync_ms = []
        for batch in batches:
            mask = self.index.judge(batch)
            started = time.perf_counter()
            is_synced = self.index.sync()
            sync_ms.append((time.perf_counter() - started) * 1e3)
            self.index.settle()
            if mask.count(expected) != BATCH_EVENTS or not is_synced:
                raise Wrong(f"{mask.count(0)} duplicates of {BATCH_EVENTS}, synced: {is_synced}")
        return sync_ms

    def measure(self, ids: int) -> Row:
        while self.index.ids < ids:
            self.deliver([self.batch(self.index.ids)], 1)
        ids = self.index.ids
        fresh = [self.batch(ids + number * BATCH_EVENTS) for number in range(MEASURED_BATCHES)]
        timer = Timer()
        sync_ms = self.deliver(fresh, 1)
        fresh_us, written = timer.us_an_event(), timer.bytes_an_event()
        rng = random.Random(ids)
        known = [self.batch(rng.randrange(ids)) for _ in range(MEASURED_BATCHES)]
        timer = Timer()
        self.deliver(known, 0)
        known_us = timer.us_an_event()
        del fresh, known
        gc.collect()
        memory, disk = resident_bytes() - self.memory_before, disk_bytes(self.folder)
        self.index.close()
        started = time.process_time()
        self.index = self.open()
        restart_s = time.process_time() - started
        return Row(ids, "index", fresh_us, written, known_us, sync_ms, memory, disk, restart_s)


def measure_sqlite(folder: Path, ids: int) -> Row:
    """Fill a table with *ids* ids, and go on with random ones in transactions like batches."""
    folder.mkdir()
    memory_before = resident_bytes()
    db = open_sqlite(folder)
    db.execute("create table ids (identity blob primary key, origin, received) without rowid")
    step = (1 << 128) // ids
    with transaction(db):
        rows = ((key.to_bytes(16, "big"), key % ids, 0) for key in range(0, ids * step, step))
        db.executemany("insert into ids values (?, ?, ?)", rows)
    rng = random.Random(ids)
    result, timings = [], []
    for is_fresh in (True, False):
        batches = [
            [
                (
                    rng.randbytes(16)
                    if is_fresh
                    else (rng.randrange(ids) * step).to_bytes(16, "big"),
                )
                for _ in range(BATCH_EVENTS)
            ]
            for _ in range(MEASURED_BATCHES)
        ]
        timer = Timer()
        for batch in batches:
            started = time.perf_counter()
            with transaction(db):
                changes = db.executemany("insert or ignore into ids values (?, 1, 0)", batch)
            timings.append((time.perf_counter() - started) * 1e3)
            if changes.rowcount != is_fresh * BATCH_EVENTS:
                raise Wrong(f"SQLite: {changes.rowcount} new ids of {BATCH_EVENTS}")
        result.append((timer.us_an_event(), timer.bytes_an_event()))
    (fresh_us, written), (known_us, _written) = result
    memory, disk = resident_bytes() - memory_before, disk_bytes(folder)
    db.close()
    started = time.process_time()
    open_sqlite(folder).close()
    restart_s = time.process_time() - started
    sync_ms = timings[:MEASURED_BATCHES]
    return Row(ids, "SQLite", fresh_us, written, known_us, sync_ms, memory, disk, restart_s)


def open_sqlite(folder: Path) -> sqlite3.Connection:
    db = sqlite3.connect(folder / "ids.sqlite", isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.execute("pragma cache_size = -131072")
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("begin immediate")
    yield
    db.execute("commit")


def event_id(number: int) -> str:
    """Return a UUID that is as good as random, the same for the same number."""
    return str(uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128)))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def bytes_written() -> int:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["write_bytes"])


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def sizes(ids_max: int) -> Iterator[int]:
    """Yield a hundredth and a tenth of *ids_max* and itself, in whole batches."""
    for part in (100, 10, 1):
        yield max(ids_max // part // BATCH_EVENTS, 1) * BATCH_EVENTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--ids", type=int, default=10_000_000, help="ids in the last row, %(default)s by default"
    )
    parser.add_argument("--scratch", type=Path, help="folder on the disk to measure")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="dedup-", dir=arguments.scratch))
    try:
        for name, value in machine.describe(scratch).items():
            print(f"{name}: {value}")
        print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        # With room for what is measured beyond the last size, so that nothing known has left.
        index = Index(scratch / "index", max(arguments.ids, 20 * MEASURED_BATCHES * BATCH_EVENTS))
        for ids in sizes(arguments.ids):
            print(index.measure(ids).text(), flush=True)
        index.index.close()
        del index
        gc.collect()
        for ids in sizes(arguments.ids):
            print(measure_sqlite(scratch / "sqlite", ids).text(), flush=True)
            shutil.rmtree(scratch / "sqlite")
    except Wrong as error:
        print(f"wrong: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
