"""Events arrive in ClickHouse whole, once, and in columns of the right type."""

import logging
from uuid import UUID

import orjson
import pytest

from segsrv.errors import SinkMisconfigured, SinkRejected
from segsrv.events.columns import COLUMNS
from tests.sinks.clickhouse_sinks import batch_of, events, new_table, opened

LINES = (
    b'{"a":"\\u0000 \\" \\\\ \\n","b":[1.50,1e400,{}],"c":123456789012345678901234567890}\n',
    '{"ü":"\U0001f600\u2028","event":"x\'`y\\tz"}\n'.encode(),
    b'{"deep":' + b"[" * 200 + b"]" * 200 + b"}\n",
    b'{"long":"' + b"x" * 300_000 + b'"}\n',
)
FITS = {
    "text": {"x y": "x y", "": "", "é\0": "é\0", 5: "5", -1: "-1", 12345678901234567: None},
    "timestamp": {
        "2026-11-25T09:00:00.123456789Z": "2026-11-25 09:00:00.123",
        "2024-02-29t23:59:59+05:30": "2024-02-29 18:29:59.000",
        "1901-01-01T00:00:00Z": "1901-01-01 00:00:00.000",
        "2298-12-31T00:00:00-08:00": "2298-12-31 08:00:00.000",
    },
    "float": {1: 1, -2.5: -2.5, 1e-7: 1e-7},
    "bool": {True: True, False: False},
}
MISFITS = {
    "text": [None, True, {}, {"a": "b"}, ["a"]],
    "timestamp": [
        *("", "2026-11-25", "2026-11-25T09:00:00", "2026-02-30T00:00:00Z", 1_795_600_800, None),
        *("2026-11-25T24:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", ["x"], "now"),
        "x2026-11-25T09:00:00Z\n",
    ],
    "float": ["1", True, None, {}, [1], "nan"],
    "bool": ["true", 1, 0, None, {}, "false"],
}


def at(path, value):
    """Return an event with *value* where *path* leads."""
    for key in reversed(path):
        value = {key: value}
    return value


class TestLines:
    @pytest.mark.parametrize("compress", ["none", "zstd"])
    async def test_an_event_is_stored_as_it_stands(self, chdb, compress):
        """Byte for byte, whatever is in it, beside what segsrv knows of it."""
        table = new_table()
        batch = batch_of(LINES)
        async with opened(chdb, table, compress=compress) as sink:
            await sink.send(batch, {})

        rows = chdb.rows(f"SELECT * FROM {table} ORDER BY event_id")
        assert [row["event"].encode() + b"\n" for row in rows] == list(LINES)
        assert [row["event_id"] for row in rows] == [f"{batch.id}-{i}" for i in range(len(LINES))]
        assert {(row["type"], row["format"], row["key_id"]) for row in rows} == {
            ("track", "flat", "web")
        }
        assert {row["received_at"] for row in rows} == {"2026-11-25 10:00:00.123"}

    async def test_what_is_not_known_is_null(self, chdb):
        """As of journals that an earlier release wrote; the time of receipt is then 1970."""
        table = new_table()
        batch = batch_of(events(1))
        batch.facts[0] = batch.facts[0]._replace(
            event_id="", type="", format="", key_id="", received_ms=0
        )
        async with opened(chdb, table) as sink:
            await sink.send(batch, {})

        (row,) = chdb.rows(f"SELECT event_id, type, format, key_id, received_at FROM {table}")
        assert row.pop("received_at") == "1970-01-01 00:00:00.000"
        assert set(row.values()) == {None}

    async def test_the_old_server_gets_them_too(self, old_clickhouse):
        """In a table without typed columns, since it has no functions for JSON."""
        table = new_table()
        async with opened(old_clickhouse, table) as sink:
            await sink.send(batch_of(LINES), {})
            await sink.send(batch_of(LINES), {})

        rows = old_clickhouse.rows(f"SELECT event, received_at FROM {table} ORDER BY event_id")
        assert [row["event"].encode() + b"\n" for row in rows] == list(LINES) * 2
        assert rows[0]["received_at"] == "2026-11-25 10:00:00"


class TestColumns:
    @pytest.mark.parametrize("output", ["flat", "compat", "segment", "tracker"])
    async def test_a_value_that_fits_is_in_its_column(self, chdb, output):
        """For each column, from where the event's format keeps it."""
        table, sent, expected = new_table(), [], []
        for column in COLUMNS:
            path = column.path(output)
            for value, stored in FITS[column.type].items():
                sent.append(at(path, value))
                expected.append((column.name, str(value) if stored is None else stored))
        async with opened(chdb, table) as sink:
            await sink.send(batch_of(sent, output=output), {})

        rows = {
            int(r["event_id"].rpartition("-")[2]): r for r in chdb.rows(f"SELECT * FROM {table}")
        }
        found = [(name, rows[number][name]) for number, (name, _) in enumerate(expected)]
        assert found == expected

    @pytest.mark.parametrize("output", ["flat", "compat", "segment"])
    async def test_a_value_that_does_not_fit_is_null_there(self, chdb, output):
        """It refuses no event, and stays in the event's JSON."""
        table, sent, names = new_table(), [], []
        for column in COLUMNS:
            path = column.path(output)
            for value in MISFITS[column.type]:
                sent.append(at(path, value))
                names.append(column.name)
                # No path leads through a value that is no object.
                sent.append(at(path[:-1], value) if len(path) > 1 else {})
                names.append(column.name)
        async with opened(chdb, table) as sink:
            await sink.send(batch_of(sent, output=output), {})

        rows = {
            int(r["event_id"].rpartition("-")[2]): r for r in chdb.rows(f"SELECT * FROM {table}")
        }
        assert [name for number, name in enumerate(names) if rows[number][name] is not None] == []
        assert [orjson.loads(rows[number]["event"]) for number in range(len(sent))] == sent

    async def test_columns_of_an_operator_go_on_working(self, chdb):
        """Those with a DEFAULT over the event are filled, also when added while segsrv runs."""
        table = new_table()
        async with opened(chdb, table) as sink:
            await sink.send(batch_of(events(2)), {})
            chdb.query(
                f"ALTER TABLE {table} ADD COLUMN number Nullable(Int64) "
                "DEFAULT JSONExtract(event, 'properties', 'number', 'Nullable(Int64)'), "
                "ADD COLUMN day Date MATERIALIZED toDate(received_at), "
                "DROP COLUMN city, DROP COLUMN key_id"
            )
            batch = batch_of(events(2))
            # The insert names a column that is gone; the next try has looked at the table again.
            with pytest.raises(SinkMisconfigured, match="the table does not fit"):
                await sink.send(batch, {})
            await sink.send(batch, {})

        assert chdb.query(f"SELECT sum(number), max(day) FROM {table}") == "2\t2026-11-25\n"

    @pytest.mark.parametrize(
        ("columns", "reason"),
        [
            ("received_at DateTime, line String", "has no column event of the type String"),
            ("received_at DateTime, event Int64", "has no column event of the type String"),
            ("received_at Date, event String", "column received_at can't be of the type Date"),
            ("received_at DateTime, type Int8, event String", "column type can't be of the type"),
        ],
    )
    async def test_a_table_that_can_not_work_is_named_at_the_start(self, chdb, columns, reason):
        """Before any event would be refused for it."""
        table = new_table()
        chdb.query(f"CREATE TABLE {table} ({columns}) ENGINE MergeTree ORDER BY received_at")

        with pytest.raises(SinkMisconfigured, match=reason):
            async with opened(chdb, table):
                pass

    @pytest.mark.parametrize(
        ("received_at", "stored"),
        [("DateTime", "2026-11-25 10:00:00"), ("DateTime64(6)", "2026-11-25 10:00:00.123000")],
    )
    async def test_a_table_of_an_operator_needs_no_more_than_the_event(
        self, chdb, received_at, stored
    ):
        """Of segsrv's other columns it has those that it likes."""
        table = new_table()
        chdb.query(
            f"CREATE TABLE {table} (received_at {received_at}, event String) ENGINE MergeTree "
            "ORDER BY received_at SETTINGS non_replicated_deduplication_window = 10"
        )
        async with opened(chdb, table) as sink:
            await sink.send(batch_of(events(1)), {})

        (row,) = chdb.rows(f"SELECT * FROM {table}")
        assert row == {"received_at": stored, "event": orjson.dumps(events(1)[0]).decode()}


class TestOnce:
    @pytest.mark.parametrize("months", [1, 40])
    async def test_a_batch_that_comes_again_is_stored_once(self, chdb, months):
        """In each of the partitions that its events belong to."""
        table = new_table()
        batch = batch_of(events(2_000), months=months)
        for _start in range(2):
            async with opened(chdb, table) as sink:
                await sink.send(batch, {})
                await sink.send(batch, {})

        parts = chdb.query(f"SELECT count() FROM system.parts WHERE table = '{table}' AND active")
        assert (chdb.count(table), int(parts)) == (2_000, months)

    async def test_what_is_missing_of_a_batch_is_stored(self, chdb):
        """A server that died between two partitions has one and not the other."""
        table = new_table()
        batch = batch_of(events(1_000), months=4)
        async with opened(chdb, table) as sink:
            half = chdb_half(batch)
            await sink.send(half, {})
            assert chdb.count(table) == 500
            await sink.send(batch, {})

        assert sorted(chdb.ids(table)) == sorted(facts.event_id for facts in batch.facts)

    async def test_distinct_batches_of_equal_events_are_all_stored(self, chdb):
        """Ids are the clients' to choose; two events may share one, and all else."""
        table = new_table()
        async with opened(chdb, table) as sink:
            for _copy in range(3):
                batch = batch_of(events(1))
                batch.facts[0] = batch.facts[0]._replace(event_id="same")
                await sink.send(batch, {})

        assert chdb.ids(table) == ["same"] * 3

    async def test_a_large_batch_is_one_block(self, chdb):
        """Of several blocks, some could be stored and others refused."""
        table = new_table()
        batch = batch_of(events(20_000))
        async with opened(chdb, table, user="lax") as sink:
            await sink.send(batch, {})

        query = f"SELECT max(rows), min(level) FROM system.parts WHERE table = '{table}' AND active"
        assert chdb.query(query) == "20000\t0\n"

    async def test_a_profile_with_other_defaults_changes_nothing(self, chdb):
        """Each insert brings its own settings: no row that can't be read is dropped silently."""
        table = new_table()
        chdb.query(
            f"CREATE TABLE {table} (event_id UUID, received_at DateTime, event String) "
            "ENGINE MergeTree PARTITION BY toYYYYMM(received_at) ORDER BY received_at "
            "SETTINGS non_replicated_deduplication_window = 100"
        )
        batch = batch_of(events(10), months=5)
        for number in range(9):
            batch.facts[number] = batch.facts[number]._replace(event_id=str(UUID(int=number)))
        async with opened(chdb, table, user="lax") as sink:
            with pytest.raises(SinkRejected, match="CANNOT_PARSE_UUID") as caught:
                await sink.send(batch, {})

        assert caught.value.indexes == (9,)
        assert chdb.count(table) == 0

    async def test_an_insert_is_answered_when_it_is_stored(self, chdb):
        """Not when it waits in the server's memory, as is the default of new releases."""
        batch = batch_of(events(1))
        async with opened(chdb, new_table()) as sink:
            await sink.send(batch, {})

        requests = chdb.log_path.read_text().splitlines()
        (request,) = [line for line in requests if f"insert_deduplication_token={batch.id}" in line]
        assert "async_insert=0" in request
        # The server refuses a second one while this one runs.
        assert f"query_id={batch.id}" in request
        assert "wait_end_of_query=1" in request


def chdb_half(batch):
    """Return the events of *batch* that are in its first two partitions, under the same id."""
    lines, facts = batch.lines(), batch.facts
    kept = [number for number in range(len(lines)) if number % 4 < 2]
    half = batch_of([lines[number] for number in kept], batch_id=batch.id)
    half.facts[:] = [facts[number] for number in kept]
    return half


class TestRefused:
    async def test_a_violated_constraint_names_the_event(self, chdb):
        """And nothing of the batch is stored, in no partition."""
        table = new_table()
        async with opened(chdb, table) as sink:
            chdb.query(
                f"ALTER TABLE {table} ADD CONSTRAINT no CHECK ifNull(event_name, '') != 'no'"
            )
            sent = events(5_000)
            sent[4_321]["event"] = "no"
            with pytest.raises(SinkRejected, match=r"Constraint `no` .* violated .*469") as caught:
                await sink.send(batch_of(sent, months=12), {})

        assert caught.value.indexes == (4_321,)
        assert chdb.count(table) == 0

    async def test_a_default_that_fails_refuses_without_naming_one(self, chdb):
        """Delivery then halves the batch; the event's own values are in no message."""
        table = new_table()
        async with opened(chdb, table) as sink:
            chdb.query(
                f"ALTER TABLE {table} ADD COLUMN price Float64 "
                "DEFAULT toFloat64(JSONExtractString(event, 'price'))"
            )
            sent = [{"price": "1.5"}] * 50
            sent[7] = {"price": "hunter2"}
            with pytest.raises(SinkRejected) as caught:
                await sink.send(batch_of(sent, months=2), {})
            assert caught.value.indexes == ()
            assert "CANNOT_PARSE_NUMBER while executing 'FUNCTION toFloat64" in str(caught.value)
            assert "hunter2" not in str(caught.value)
            assert chdb.count(table) == 0
            await sink.send(batch_of([{"price": "1.5"}]), {})

        assert chdb.query(f"SELECT price FROM {table}") == "1.5\n"

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ("ADD COLUMN n Int64 DEFAULT toInt64(JSONExtractString(event, 'n'))", 6),
            ("ADD COLUMN n Enum('1' = 1) DEFAULT JSONExtractString(event, 'n')", 691),
            ("ADD CONSTRAINT ones CHECK JSONExtractString(event, 'n') = '1'", 469),
            ("MODIFY COLUMN event JSON", 117),
        ],
    )
    @pytest.mark.parametrize(
        "value",
        [
            "x at row 1",
            "(at row 1)\n: While executing JSONEachRow",
            "' : while pushing to view `x",
            "`: while pushing to view x. (INCORRECT_DATA)",
            "is violated at row 1 'FUNCTION (while reading the value of key event",
        ],
    )
    async def test_what_an_event_says_accuses_no_other(self, chdb, change, code, value):
        """A text that looks like the server's own words neither names a row nor stops the sink."""
        table = new_table()
        chdb.query(
            f"CREATE TABLE {table} (received_at DateTime, event String) ENGINE MergeTree "
            "ORDER BY received_at SETTINGS non_replicated_deduplication_window = 100"
        )
        chdb.query(f"ALTER TABLE {table} {change}")
        bad = orjson.dumps({"n": value})[:-1] + b',"n":"2",%b:1,%b:1}\n' % (
            *[orjson.dumps(value)] * 2,
        )
        if code == 469:
            bad = {"n": value}
        async with opened(chdb, table) as sink:
            with pytest.raises(SinkRejected, match=f"code {code}") as caught:
                await sink.send(batch_of([*[{"n": "1"}] * 3, bad]), {})
            assert caught.value.indexes in {(), (3,)}
            assert (caught.value.indexes == (3,)) == (code in {117, 469})
            assert "x at row" not in str(caught.value)

        assert chdb.count(table) == 0

    async def test_a_view_that_fails_is_known_whatever_an_event_says(self, chdb):
        """Also one with an odd name, and one that is filled by another one."""
        table = new_table()
        async with opened(chdb, table) as sink:
            for name in ("one", "two"):
                chdb.query(f"CREATE TABLE {table}_{name} (n Int64) ENGINE MergeTree ORDER BY n")
            chdb.query(
                f"CREATE MATERIALIZED VIEW {table}_view TO {table}_one AS SELECT "
                f"toInt64OrZero(JSONExtractString(event, 'n')) AS n FROM {table}"
            )
            chdb.query(f"ALTER TABLE {table}_two ADD CONSTRAINT ones CHECK n = 1")
            chdb.query(
                f"CREATE MATERIALIZED VIEW `{table} it's: (a view)` TO {table}_two AS SELECT "
                f"n FROM {table}_one"
            )
            for value in ("x at row 1", "(at row 1)\n: While executing JSONEachRow"):
                with pytest.raises(SinkMisconfigured, match="a materialized view of the table"):
                    await sink.send(batch_of([{"n": "1"}, {"n": value}]), {})

    async def test_of_many_refused_events_no_more_are_named_one_by_one(self, chdb):
        """Each try would cost a whole batch; halves leave the bad ones behind sooner."""
        table = new_table()
        async with opened(chdb, table) as sink:
            chdb.query(
                f"ALTER TABLE {table} ADD CONSTRAINT no CHECK ifNull(event_name, '') != 'no'"
            )
            named = []
            for _try in range(10):
                with pytest.raises(SinkRejected) as caught:
                    await sink.send(batch_of([{"event": "no"}] * 3), {})
                named.append(caught.value.indexes)
            await sink.send(batch_of(events(1)), {})
            with pytest.raises(SinkRejected) as caught:
                await sink.send(batch_of([{"event": "no"}]), {})

        assert named == [(0,)] * 8 + [()] * 2
        assert caught.value.indexes == (0,)

    async def test_a_view_that_fails_refuses_nothing(self, chdb):
        """The table may have the events by then: they come again, and are there once in both."""
        table = new_table()
        async with opened(chdb, table) as sink:
            chdb.query(
                f"CREATE TABLE {table}_sums (price Float64) ENGINE MergeTree ORDER BY price "
                "SETTINGS non_replicated_deduplication_window = 100"
            )
            view = f"CREATE MATERIALIZED VIEW {table}_view TO {table}_sums AS SELECT "
            chdb.query(f"{view} toFloat64(JSONExtractString(event, 'price')) AS price FROM {table}")
            batch = batch_of([{"price": "1.5"}, {"price": "hunter2"}])
            with pytest.raises(
                SinkMisconfigured, match=r"view .* fails: CANNOT.*toFloat64"
            ) as caught:
                await sink.send(batch, {})
            assert "hunter2" not in str(caught.value)
            chdb.query(f"DROP TABLE {table}_view")
            chdb.query(
                f"{view} toFloat64OrZero(JSONExtractString(event, 'price')) AS price FROM {table}"
            )
            await sink.send(batch, {})
            await sink.send(batch, {})

        assert chdb.count(table) == 2
        assert chdb.query(f"SELECT price FROM {table}_sums ORDER BY price") == "0\n1.5\n"


class TestWindow:
    async def test_a_table_without_a_window_is_warned_of_once(self, chdb, caplog):
        """With the statement that mends it; its events arrive all the same."""
        table = new_table()
        chdb.query(
            f"CREATE TABLE {table} (received_at DateTime, event String) "
            "ENGINE MergeTree ORDER BY received_at"
        )
        with caplog.at_level(logging.WARNING):
            async with opened(chdb, table) as sink:
                await sink.open()
                await sink.send(batch_of(events(1)), {})
        (warning,) = [record.getMessage() for record in caplog.records]
        assert "has no non_replicated_deduplication_window" in warning
        caplog.clear()
        chdb.query(warning.partition("run ")[2])
        with caplog.at_level(logging.WARNING):
            async with opened(chdb, table) as sink:
                batch = batch_of(events(1))
                await sink.send(batch, {})
                await sink.send(batch, {})

        assert not caplog.records
        assert chdb.count(table) == 2

    async def test_an_engine_that_knows_no_repeated_insert_is_warned_of(self, chdb, caplog):
        """Such as Log, or a buffer in memory before the table."""
        table = new_table()
        chdb.query(f"CREATE TABLE {table} (received_at DateTime, event String) ENGINE Log")
        with caplog.at_level(logging.WARNING):
            async with opened(chdb, table):
                pass

        assert "a table of the engine Log may not know" in caplog.text

    async def test_the_old_server_is_warned_of(self, old_clickhouse, caplog):
        """It has no tokens, so what comes again is there twice."""
        table = new_table()
        with caplog.at_level(logging.WARNING):
            async with opened(old_clickhouse, table) as sink:
                batch = batch_of(events(3))
                await sink.send(batch, {})
                await sink.send(batch, {})

        assert "too old to know a batch that comes again" in caplog.text
        assert old_clickhouse.count(table) == 6
