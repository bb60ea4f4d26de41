"""Events go to PostgreSQL through PgBouncer too, where each transaction may get another session."""

import asyncio

import asyncpg
import pytest

from segsrv.errors import SinkRejected
from tests.services.pgbouncer_service import PgBouncerService
from tests.sinks.postgresql_batches import batch, event, opened

BATCHES = 20


@pytest.fixture
def pool(database, tmp_path):
    PgBouncerService.require()
    with PgBouncerService(tmp_path / "pgbouncer", database.service.port) as running:
        yield running


async def test_sessions_that_change_under_a_sink_do_no_harm(database, pool):
    """Several sinks share two of them, with somebody who changes settings of the session."""
    url = database.url_of(port=pool.port) + "?sslmode=disable"
    other = await asyncpg.connect(url.partition("?")[0], statement_cache_size=0, ssl="disable")
    settings = "SET synchronous_commit = off; SET search_path = pg_catalog, public"

    async def send(name):
        async with opened(url, name=name) as sink:
            await sink.delivered()
            for number in range(BATCHES):
                for _try in range(2):
                    await other_is_busy()
                    await sink.send(batch(f"{name}-{number}", [event()] * 10), {})

    async def other_is_busy():
        async with lock:
            await other.execute(settings)

    lock = asyncio.Lock()
    await asyncio.gather(send("one"), send("two"), send("three"))
    await other.close()

    assert database.count() == 3 * BATCHES * 10
    assert database.count("segsrv_positions") == 3


async def test_what_is_refused_is_found(database, pool):
    """The search leaves nothing behind in the session."""
    async with opened(database.url_of(port=pool.port) + "?sslmode=disable") as sink:
        database.sql("ALTER TABLE events ADD CHECK (event_name <> 'bad')")
        for number in range(3):
            events = [event(event="good"), event(event="bad")]
            with pytest.raises(SinkRejected) as refused:
                await sink.send(batch(f"batch-{number}", events), {})
            assert refused.value.indexes == (1,)
            await sink.send(batch(f"batch-{number}.1", events[:1]), {})

    assert database.count() == 3
