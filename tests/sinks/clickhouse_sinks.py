"""Sinks and batches for the tests of ClickHouse."""

import contextlib
import itertools

import orjson

from segsrv.journal.facts import Facts
from segsrv.settings import Settings
from segsrv.settings.sink import SinkTable
from segsrv.sinks import registry
from segsrv.sinks.base import Batch

RECEIVED_MS = 1_795_600_800_123
MONTH_MS = 31 * 86_400_000
_numbers = itertools.count()


def new_table() -> str:
    """Return a name that no other test uses."""
    return f"events_{next(_numbers)}"


def line_of(event) -> bytes:
    return event if isinstance(event, bytes) else orjson.dumps(event) + b"\n"


def batch_of(events, *, batch_id=None, output="flat", months=1) -> Batch:
    """Return a batch of *events*, received over so many *months*; each has an id of its own."""
    lines = [line_of(event) for event in events]
    batch_id = batch_id or f"batch-{next(_numbers):020d}"
    facts = [
        Facts(
            "web",
            output,
            RECEIVED_MS + number % months * MONTH_MS,
            "track",
            len(line),
            f"{batch_id}-{number}",
        )
        for number, line in enumerate(lines)
    ]
    return Batch(batch_id, [b"".join(lines)], len(lines), lambda: facts)


def events(count):
    return [{"event": "Order Done", "properties": {"number": number}} for number in range(count)]


@contextlib.asynccontextmanager
async def opened(service, table, *, port=None, user="writer", is_open=True, **options):
    """Yield a sink for *table* on *service*, opened if so asked."""
    sink = made(service, table, port=port, user=user, **options)
    try:
        if is_open:
            await sink.open()
        yield sink
    finally:
        await sink.close()


def made(service, table, *, port=None, user="writer", password="right", **options):
    url = f"clickhouse://{user}:{password}@127.0.0.1:{port or service.port}/default"
    config = SinkTable(name="ch", url=url, options={"table": table, **options})
    (built,) = registry.build(Settings(sinks=[config]), {})
    return built.sink
