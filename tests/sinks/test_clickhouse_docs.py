"""What docs/sinks/clickhouse.md says: options, columns, tests and queries."""

import re

import pytest

from segsrv.events.columns import COLUMNS, FACTS
from segsrv.settings.fields import kinds_of
from segsrv.sinks.clickhouse.kind import CLICKHOUSE, ClickhouseOptions
from tests.server_process import REPOSITORY
from tests.sinks.clickhouse_sinks import batch_of, opened

PAGE = (REPOSITORY / "docs" / "sinks" / "clickhouse.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


def test_the_table_of_options_is_that_of_the_sink():
    """Each has a row with its default, in order."""
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`)? ?\|", PAGE, re.MULTILINE)
    fields = ClickhouseOptions.__dataclass_fields__

    def shown(value):
        return "" if value is None else f"{value:g}" if type(value) is float else str(value)

    defaults = [(name, fields[name].default) for name in kinds_of(ClickhouseOptions)]
    expected = [
        (name, str(value).lower() if isinstance(value, bool) else shown(value))
        for name, value in defaults
    ]
    assert rows[: len(expected)] == expected


def test_the_defaults_of_batches_are_those_of_the_kind():
    """As the page says them in one sentence."""
    text = " ".join(PAGE.split())
    mebibytes = CLICKHOUSE.batch_bytes_max >> 20
    assert (
        f"`batch_interval_s` is {CLICKHOUSE.batch_interval_s:g}, `batch_events_max` "
        f"{CLICKHOUSE.batch_events_max:,} and `batch_bytes_max` {mebibytes} MiB"
    ) in text


def test_all_columns_are_named():
    """Those of every sink with columns."""
    assert [name for name, *_ in (*FACTS, *COLUMNS) if f"`{name}`" not in PAGE] == []


def test_the_tests_that_show_a_guarantee_exist():
    """Under the name, and in the file, that the page gives."""
    rows = re.findall(r"^\| .* \| `(test_\w+)`(?: in `(\w+\.py)`)? \|$", PAGE, re.MULTILINE)
    assert len(rows) == 7
    for name, file in rows:
        code = REPOSITORY / "tests" / "sinks" / (file or "test_clickhouse_faults.py")
        assert f"def {name}(" in code.read_text()


class TestQueries:
    @pytest.fixture
    async def table(self, chdb):
        """The table `events`, with three of them."""
        chdb.query("DROP TABLE IF EXISTS events")
        sent = [
            {"event": "Order Done", "ids": {"ajs_user_id": "u1"}, "properties": {"price": 5.5}},
            {"event": "Order Done", "ids": {"ajs_user_id": "u2"}, "properties": {"price": 1}},
            {"event": "Cart Viewed", "ids": {"ajs_user_id": "u2"}},
        ]
        batch = batch_of(sent)
        for number, event_id in enumerate(["m1", "m2", "m2"]):
            batch.facts[number] = batch.facts[number]._replace(event_id=event_id)
        async with opened(chdb, "events") as sink:
            await sink.send(batch, {})
        yield
        chdb.query("DROP TABLE events")

    @pytest.mark.usefixtures("table")
    async def test_they_answer_what_they_say(self, chdb):
        """Word for word from the page."""
        alter, days, revenue, one, copies = QUERIES
        chdb.query(alter)

        assert chdb.query("SELECT sum(price) FROM events") == "6.5\n"
        assert chdb.rows(days) == [
            row | {"day": "2026-11-25", "type": "track"}
            for row in (
                {"event_name": "Order Done", "events": 2, "users": 2},
                {"event_name": "Cart Viewed", "events": 1, "users": 1},
            )
        ]
        assert chdb.rows(revenue)[0] == {"event_name": "Order Done", "revenue": 6.5}
        assert [row["event"][:22] for row in chdb.rows(one)] == ['{"event":"Order Done",']
        assert chdb.rows(copies) == [{"event_id": "m2", "copies": 2, "distinct_events": 2}]
