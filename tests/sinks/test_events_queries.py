"""The queries of docs/events.md run, and give what they say of the events of each format."""

import re
import time

import duckdb
import pytest

from tests.server_process import REPOSITORY
from tests.sinks import clickhouse_sinks
from tests.site import COMPAT, FLAT, LONDON, RAW, new_id
from tests.waiting import wait_until

PAGE = (REPOSITORY / "docs" / "events.md").read_text("utf-8")
QUERIES = dict(re.findall(r"```sql\n-- ([^\n]*)\n(.*?)```", PAGE, re.DOTALL))
PATHS = {"flat": FLAT, "compat": COMPAT, "segment": RAW}


def orders(path_of):
    """Yield a path and an event for it: two orders of one user, one of another, and a page."""
    for number, (kind, user) in enumerate(
        (("track", "u1"), ("track", "u1"), ("track", "u2"), ("page", "u2"))
    ):
        yield (
            path_of(number),
            {
                "type": kind,
                "messageId": new_id(),
                "userId": user,
                "context": {"ip": LONDON},
                **(
                    {"event": "Order Completed", "properties": {"total": 10}}
                    if kind == "track"
                    else {}
                ),
            },
        )


def test_every_query_is_run_here():
    """None is shown that no test knows."""
    assert set(QUERIES) == {
        *(f"duckdb {name}" for name in PATHS),
        *("postgresql", "postgresql property", "clickhouse", "clickhouse property"),
    }


@pytest.mark.parametrize("output", PATHS)
def test_duckdb(start_server, output, monkeypatch):
    """On the lines of a file sink, each event's user is found where its format has it."""
    site = start_server()
    sent = list(orders(lambda _number: PATHS[output]))
    for path, event in sent:
        assert site.post(event, path=path).status == 200
    site.stored(*(event["messageId"] for _path, event in sent))
    monkeypatch.chdir(site.process.data_dir)
    rows = duckdb.connect().execute(QUERIES[f"duckdb {output}"]).fetchall()
    assert rows == [("Order Completed", 3, 2), (None, 1, 1)]


def test_postgresql(start_server, database):
    """One table has events of all formats, and the columns are the same."""
    site = start_server("--sink", database.url)
    paths = list(PATHS.values())
    for path, event in orders(lambda number: paths[number % 3]):
        assert site.post(event, path=path).status == 200
    wait_until(lambda: database.sql("SELECT to_regclass('events') IS NOT NULL") == "t")
    wait_until(lambda: database.count() == 4)
    assert database.sql(QUERIES["postgresql"]) == "Order Completed|GB|3|2"
    assert database.sql(QUERIES["postgresql property"]) == "30"


async def test_clickhouse(chdb):
    """The same of ClickHouse, with events as each format stores them."""
    chdb.query("DROP TABLE IF EXISTS events")
    common = {"event": "Order Completed"}
    place = {"country": "GB"}
    of_formats = {
        "flat": common | {"ids": {"ajs_user_id": "u1"}, "location": place, "total": 10},
        "compat": common
        | {"eventn_ctx": {"ids": {"ajs_user_id": "u1"}, "location": place}, "total": 10},
        "segment": common
        | {"userId": "u2", "context": {"location": place}, "properties": {"total": 10}},
    }
    async with clickhouse_sinks.opened(chdb, "events") as sink:
        for output, event in of_formats.items():
            batch = clickhouse_sinks.batch_of([event], output=output)
            batch.facts[0] = batch.facts[0]._replace(received_ms=int(time.time() * 1_000))
            await sink.send(batch, {})
    assert [tuple(row.values()) for row in chdb.rows(QUERIES["clickhouse"])] == [
        ("Order Completed", "GB", 3, 2)
    ]
    assert [row["total"] for row in chdb.rows(QUERIES["clickhouse property"])] == [30]
