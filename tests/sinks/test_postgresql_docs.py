"""docs/sinks/postgresql.md says what the code does."""

import dataclasses
import re

from segsrv.sinks.postgresql.kind import PostgresqlOptions
from segsrv.sinks.postgresql.sql import COLUMN_TYPES
from tests.server_process import REPOSITORY
from tests.sinks.postgresql_batches import event, store

TEXT = (REPOSITORY / "docs" / "sinks" / "postgresql.md").read_text()


def rows(head: str) -> list[list[str]]:
    """Return the cells of the table whose first column is called *head*."""
    table = re.search(rf"^\| {head} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert table
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table[1].splitlines()]


def test_every_option_is_there_with_its_default():
    """In the order of the code, with what it says there."""
    fields = dataclasses.fields(PostgresqlOptions)
    documented = rows("option")
    assert [row[0] for row in documented] == [f"`{field.name}`" for field in fields]
    for (_name, default, _unit, text), field in zip(documented, fields, strict=True):
        defaults = {None: "none", True: "`true`"}
        assert default == defaults.get(field.default, f'`"{field.default}"`')
        if field.name != "sslmode":
            assert re.split(r"[,;]", field.metadata["help"])[0] in text


def test_every_column_is_there_with_its_type():
    """And none that is unknown."""
    types = {
        name: row[1].strip("`") for row in rows("column") for name in re.findall(r"`(\w+)`", row[0])
    }
    assert types == COLUMN_TYPES


def test_the_tests_that_show_it_are_there():
    """Each promise names one that exists."""
    faults = (REPOSITORY / "tests" / "sinks" / "test_postgresql_faults.py").read_text()
    names = [row[2].strip("`").partition("::") for row in rows("what happens")]
    assert names
    for group, _colons, name in names:
        assert f"class {group}:" in faults
        assert f"def {name}(" in faults


async def test_the_queries_run(database):
    """As they stand there, on events that have an answer for each."""
    order = {"event": "Order Completed", "plan": "gold"}
    events = [
        *(event(**order, price=10), event(**order, price=2.5)),
        event(event="Order Completed", plan="free", price=0),
    ]
    await store(database.url, events, ids=["a", "a", "b"])
    database.sql("UPDATE events SET type = 'page', page_path = '/', anonymous_id = event_id")
    database.sql("UPDATE events SET received_at = now()")
    queries = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
    by_day, pages, revenue, ids, positions = [database.sql(query) for query in queries]

    assert by_day.endswith("|page|3")
    assert pages == "/|2"
    assert sorted(revenue.split("\n")) == ["free|0", "gold|12.5"]
    assert [line.split("|")[0] for line in ids.split("\n")] == ["a", "b"]
    assert "|warehouse|public.events|before|" in positions
