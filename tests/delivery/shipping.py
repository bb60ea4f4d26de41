"""A journal, a shipper and a sink in memory, put together for the tests of this folder."""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from segsrv.delivery import cursor as cursors
from segsrv.delivery.attempts import Attempts
from segsrv.delivery.bundle import Limits
from segsrv.delivery.cursor import Cursor, CursorFile
from segsrv.delivery.inheritance import Inheritance
from segsrv.delivery.rejects import Rejects
from segsrv.delivery.shipper import Shipper
from segsrv.delivery.source import LeftSource
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.facts import Run, encode, join
from segsrv.journal.log import SegmentLog
from segsrv.sinks.base import Batch, Placement, Sink

GRACE_S = 10.0
RECEIVED_MS = 1_790_000_000_000


class MemorySink:
    """Keeps batches in a list; raises the errors that a test queued, one for each call.

    `calls` counts every `send`, `sent` holds those that succeeded with their placement.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[Batch, Placement]] = []
        self.calls = 0
        self.is_open = False
        self.open_faults: deque[Exception] = deque()
        self.plan_faults: deque[Exception] = deque()
        self.send_faults: deque[Exception] = deque()

    @property
    def lines(self) -> list[bytes]:
        return b"".join(batch.content for batch, _placement in self.sent).splitlines(keepends=True)

    async def check(self) -> None:
        """Nothing can be wrong with a list."""

    async def open(self) -> None:
        _raise_next(self.open_faults)
        self.is_open = True

    async def plan(self, batch: Batch, last: Placement) -> Placement:
        assert self.is_open
        assert batch.events
        _raise_next(self.plan_faults)
        return {"number": last.get("number", 0) + 1}

    async def send(self, batch: Batch, placement: Placement) -> None:
        self.calls += 1
        _raise_next(self.send_faults)
        self.sent.append((batch, placement))

    async def close(self) -> None:
        self.is_open = False

    def describe(self) -> str:
        return "memory"


def _raise_next(faults: deque[Exception]) -> None:
    if faults:
        raise faults.popleft()


def open_log(
    directory: Path, *, segment_bytes_max: int = 1 << 20, position_min: int = 0
) -> SegmentLog:
    return SegmentLog(
        directory / "journal",
        segment_bytes_max=segment_bytes_max,
        disk_free_bytes_min=0,
        is_synced=False,
        position_min=position_min,
    )


def append(log: SegmentLog, *numbers: int, **facts: Any) -> list[bytes]:
    """Append a frame of one line for each number and return the lines."""
    return [line for number in numbers for line in append_batch(log, number, **facts)]


def append_batch(
    log: SegmentLog, *numbers: int, key_id: str = "web", kind: str = "track"
) -> list[bytes]:
    """Append one frame with a line for each number, as of one request, and return the lines."""
    lines = [b'{"n":%d}\n' % number for number in numbers]
    ids = [f"id-{number}" for number in numbers]
    run = Run(key_id, "flat", RECEIVED_MS, kind, [len(line) for line in lines], ids)
    log.append(b"".join(lines), len(lines), join([encode(run)]))
    return lines


def make_shipper(
    directory: Path,
    log: SegmentLog,
    sink: Sink,
    *,
    flush_interval_s: float = 0.001,
    flush_bytes_max: int = 1 << 20,
    flush_events_max: int = 1_000,
    retry_s_max: float = 0.01,
    timeout_s: float = 60.0,
    others: Sequence[SegmentLog] = (),
    **options: Any,
) -> Shipper:
    """Return a shipper of *log*, w0, and *others* to *sink*, as `Delivery` would make it."""
    letters = DeadLetters(directory / "dead-letter", prefix="sink-test", bytes_max=1 << 20)
    return Shipper(
        "test",
        sink,
        [
            LeftSource(f"w{number}", each, retention_s=0)
            for number, each in enumerate((log, *others))
        ],
        cursor=CursorFile(cursor_path(directory)),
        rejects=Rejects("test", letters),
        attempts=Attempts("test", timeout_s=timeout_s, retry_s_max=retry_s_max),
        limits=Limits(flush_events_max, flush_bytes_max, flush_interval_s),
        **({"guard": log.check_lock, "inherit": of_own_cursor} | options),
    )


def of_own_cursor(cursor: Cursor | None) -> Inheritance:
    inherited = Inheritance()
    if cursor is not None:
        inherited.add(cursor)
    return inherited


def cursor_path(directory: Path) -> Path:
    return directory / "state" / "sinks" / "test.cursor"


def kept(directory: Path) -> Cursor:
    """Return the newest cursor on disk."""
    newest, _older, damaged = cursors.read(cursor_path(directory))
    assert newest is not None
    assert not damaged
    return newest


@asynccontextmanager
async def shipping(
    directory: Path, log: SegmentLog, sink: Sink, *, grace_s: float = GRACE_S, **options: Any
) -> AsyncIterator[Shipper]:
    """Run a shipper for the length of an `async with` block; the end waits for delivery."""
    shipper = make_shipper(directory, log, sink, **options)
    shipper.start()
    try:
        yield shipper
    finally:
        await shipper.stop(grace_s=grace_s)
