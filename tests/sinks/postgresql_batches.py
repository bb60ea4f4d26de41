"""Makes PostgreSQL sinks as settings do, and batches for them without a server before."""

import contextlib

import orjson

from segsrv.journal.facts import Facts
from segsrv.settings import Settings
from segsrv.settings.sink import SinkTable
from segsrv.sinks import registry
from segsrv.sinks.base import Batch

RECEIVED_MS = 1_764_000_000_123
ORIGIN = "a" * 32


def event(event_id: str = "", **values):
    """Return a stored event in the flat format."""
    return {"eventn_ctx_event_id": event_id, "event_type": "track", **values}


def batch(batch_id, events, *, output="flat", ends=None, ids=None):
    """Return a batch of *events*: stored ones, or whole lines of bytes."""
    lines = [each if isinstance(each, bytes) else orjson.dumps(each) + b"\n" for each in events]
    if ids is None:
        ids = [f"{batch_id}-{number}" for number in range(len(lines))]
    known = [
        Facts("web", output, RECEIVED_MS, "track", len(line), event_id)
        for line, event_id in zip(lines, ids, strict=True)
    ]
    return Batch(batch_id, [b"".join(lines)], len(lines), lambda: known, ends)


def make_sink(url, *, origin=ORIGIN, name="warehouse", is_once=False, environ=None, **more):
    options = more.pop("options", {})
    table = SinkTable(name=name, url=url, options=options, **more)
    settings = Settings(sinks=(table,))
    return registry.build(settings, environ or {}, origin=origin, is_once=is_once)[0].sink


@contextlib.asynccontextmanager
async def opened(url, **more):
    """Yield a sink that is open, and close it behind the block."""
    sink = make_sink(url, **more)
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


async def store(url, events, *, batch_id="before", output="flat", ids=None, **more):
    """Store *events* as one batch; return the sink's counters."""
    async with opened(url, **more) as sink:
        await sink.send(batch(batch_id, events, output=output, ids=ids), {})
        return sink.stats
