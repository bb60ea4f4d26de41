"""Lines become Parquet: the same columns whatever clients send, and every line whole."""

import asyncio
import contextlib
import threading
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import orjson
import pytest

from segsrv.errors import NotConverted
from segsrv.events.columns import COLUMNS, EVENT, FACTS
from segsrv.journal.facts import Facts
from segsrv.sinks.parquet import SOURCE_BYTES, Conversion, encode, source_bytes

SQL_TYPES = {
    "text": "VARCHAR",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
}
SCHEMA = [(column.name, SQL_TYPES[column.type]) for column in (*FACTS, *COLUMNS)] + [
    (EVENT, "VARCHAR")
]
RECEIVED = datetime(2026, 11, 23, 9, 0, 0, 123_000, tzinfo=UTC)


def facts_of(line: bytes, **given: object) -> Facts:
    values = {
        "key_id": "web",
        "format": "flat",
        "received_ms": int(RECEIVED.timestamp() * 1000),
        "type": "track",
        "length": len(line),
        "event_id": "1",
    }
    return Facts(**(values | given))


def line_of(event: object) -> bytes:
    return orjson.dumps(event) + b"\n"


def rows_of(data: bytes, tmp_path) -> list[dict]:
    """Read a Parquet file; its schema is checked on the way."""
    path = tmp_path / "read.parquet"
    path.write_bytes(data)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(f"DESCRIBE SELECT * FROM '{path}'").fetchall()

        assert [(row[0], row[1]) for row in found] == SCHEMA

        names = [name for name, _type in SCHEMA]
        rows = connection.execute(f"SELECT * FROM '{path}'").fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]


def row_of(event: object, tmp_path, **facts: object) -> dict:
    line = line_of(event)
    [row] = rows_of(encode([line], [facts_of(line, **facts)]), tmp_path)

    assert row[EVENT].encode() + b"\n" == line

    return row


def nested(path: tuple[str, ...], value: object) -> dict:
    for key in reversed(path):
        value = {key: value}
    return value


FULL = {
    "event": "Signed Up",
    "name": "Home",
    "timestamp": "2026-11-23T08:59:59.5+01:00",
    "sentAt": "2026-11-23T09:00:00Z",
    "groupId": "g1",
    "source_ip": "1.2.3.4",
    "ids": {"ajs_user_id": "u1", "ajs_anonymous_id": "a1"},
    "doc": {"url": "https://x.example/p", "path": "/p"},
    "page_title": "T",
    "referer": "https://r.example",
    "utm": {"source": "s", "medium": "m", "campaign": "c", "term": "t", "content": "n"},
    "location": {"country": "GB", "region": "ENG", "city": "Ely", "latitude": 52.4, "longitude": 0},
    "user_agent": "Mozilla",
    "parsed_ua": {
        "ua_family": "Chrome",
        "ua_version": "141",
        "os_family": "Linux",
        "os_version": "6",
        "device_family": "PC",
        "bot": True,
    },
    "user_language": "en-GB",
}


def at(event: dict, path: tuple[str, ...]) -> object:
    for key in path:
        event = event[key]
    return event


AT_ROOT = {column.flat[0] for column in COLUMNS if column.flat == column.compat}
VALUES = {
    "event_name": "Signed Up",
    "name": "Home",
    "timestamp": datetime(2026, 11, 23, 7, 59, 59, 500_000, tzinfo=UTC),
    "sent_at": datetime(2026, 11, 23, 9, tzinfo=UTC),
    "user_id": "u1",
    "anonymous_id": "a1",
    "group_id": "g1",
    "page_url": "https://x.example/p",
    "page_path": "/p",
    "page_title": "T",
    "referrer": "https://r.example",
    "utm_source": "s",
    "utm_medium": "m",
    "utm_campaign": "c",
    "utm_term": "t",
    "utm_content": "n",
    "country": "GB",
    "region": "ENG",
    "city": "Ely",
    "latitude": 52.4,
    "longitude": 0.0,
    "ip": "1.2.3.4",
    "user_agent": "Mozilla",
    "browser": "Chrome",
    "browser_version": "141",
    "os": "Linux",
    "os_version": "6",
    "device": "PC",
    "is_bot": True,
    "language": "en-GB",
}


class TestColumns:
    def test_flat(self, tmp_path):
        """Every column of an event in the flat format has its value."""
        row = row_of(FULL, tmp_path)

        assert {column.name: row[column.name] for column in COLUMNS} == VALUES

    @pytest.mark.parametrize("output", ["compat", "tracker", ""])
    def test_compat(self, tmp_path, output):
        """So has one with the tracker's fields below `eventn_ctx`, known as such or not."""
        event = {key: value for key, value in FULL.items() if key in AT_ROOT}
        event["eventn_ctx"] = {key: FULL[key] for key in FULL.keys() - event.keys()}

        row = row_of(event, tmp_path, format=output)

        assert {column.name: row[column.name] for column in COLUMNS} == VALUES

    @pytest.mark.parametrize("output", ["segment", ""])
    def test_segment(self, tmp_path, output):
        """So has one in Segment's own shape, known as such or by its `messageId`."""
        event = {"messageId": "m", "receivedAt": "2026-11-23T09:00:00Z", "type": "track"}
        for column in COLUMNS:
            holder = event
            for key in column.segment[:-1]:
                holder = holder.setdefault(key, {})
            holder[column.segment[-1]] = at(FULL, column.flat)

        row = row_of(event, tmp_path, format=output)

        assert {column.name: row[column.name] for column in COLUMNS} == VALUES

    def test_known_format(self, tmp_path):
        """A property called `eventn_ctx` doesn't make a flat event another one."""
        row = row_of(FULL | {"eventn_ctx": {"ids": {"ajs_user_id": "x"}}}, tmp_path)

        assert {column.name: row[column.name] for column in COLUMNS} == VALUES

    def test_facts(self, tmp_path):
        """What segsrv knows of an event is in columns, whatever characters the id has."""
        event_id = 'a"b\\\t\n\r\0\x1f,\u2028é😀'
        row = row_of({}, tmp_path, event_id=event_id)

        assert row["event_id"] == event_id
        assert row["received_at"] == RECEIVED
        assert (row["type"], row["format"], row["key_id"]) == ("track", "flat", "web")

    def test_unknown_facts(self, tmp_path):
        """Facts that a journal doesn't have are NULL."""
        row = row_of({}, tmp_path, key_id="", format="", received_ms=0, type="", event_id="")

        assert [row[fact.name] for fact in FACTS] == [None] * len(FACTS)

    @pytest.mark.parametrize("nests", [False, True])
    def test_no_facts(self, tmp_path, nests):
        """Lines without facts are asked for what they say of them."""
        event = {"event_type": "page", "_timestamp": "2026-11-23T09:00:00.123000Z"}
        ids = {"eventn_ctx": {"event_id": "i"}} if nests else {"eventn_ctx_event_id": "i"}
        [row] = rows_of(encode([line_of(event | ids)]), tmp_path)

        assert [row[fact.name] for fact in FACTS] == ["i", RECEIVED, "page", None, None]

    def test_order(self, tmp_path):
        """Events are in their order, over many parts and row groups."""
        lines = [line_of({"event": f"{n}", "x": "y" * 900}) for n in range(60_000)]
        parts = [
            b"".join(lines[:1]),
            memoryview(b"".join(lines[1:40_000])),
            b"".join(lines[40_000:]),
        ]
        facts = [facts_of(line, event_id=f"{n}") for n, line in enumerate(lines)]
        rows = rows_of(encode(parts, facts), tmp_path)

        assert [row["event_name"] for row in rows] == [f"{n}" for n in range(60_000)]
        assert [row["event_id"] for row in rows] == [f"{n}" for n in range(60_000)]


DESCRIPTORS = Path("/dev/fd")
HUGE = 10**400
DEEP = orjson.loads(b"[" * 200 + b"]" * 200)
ODD = [None, {}, {"a": 1}, [], ["x"], DEEP]
FITTING = {
    "text": [
        *((text, text) for text in ("", "x", "a\0b", "null", "\ufffd😀", "\x1f\t\n\r")),
        *((number, str(number)) for number in (1, -1.5, 2**64 - 1)),
    ],
    "timestamp": [
        ("2026-02-28T10:00:00.1234567Z", datetime(2026, 2, 28, 10, 0, 0, 123_456, tzinfo=UTC)),
        ("2026-02-28t10:00:00z", datetime(2026, 2, 28, 10, tzinfo=UTC)),
        ("2024-02-29T23:59:59-05:30", datetime(2024, 3, 1, 5, 29, 59, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime.max.replace(tzinfo=UTC)),
    ],
    "float": [(0, 0.0), (-1, -1.0), (1.5, 1.5), (2**64 - 1, float(2**64 - 1)), (1e308, 1e308)],
    "bool": [(True, True), (False, False)],
}
NO_TIMES = """
2026-02-30T10:00:00Z 2026-02-28T10:00:00 2026-02-28 2026-02-28T24:00:00Z 2026-02-28T10:00:00+24:00
10000-01-01T00:00:00Z 0000-01-01T00:00:00Z 0001-01-01T00:00:00+01:00 9999-12-31T23:59:59-01:00
infinity now epoch x 2026-02-28T10:00:00.Z
""".split()
UNFITTING = {
    "text": [*ODD, True, False],
    "timestamp": [
        *(*ODD, True, 1, 1e300, "", "\0", *NO_TIMES),
        "2026-02-28T10:00:00 Europe/Berlin",
        "2026-02-28T10:00:00Z\n",
        "2026-02-28T10:00:00." + "1" * 100_000 + "Z",
    ],
    "float": [*ODD, True, "1", "1.5", "NaN", "Infinity", ""],
    "bool": [*ODD, 0, 1, "true", "false", ""],
}


class TestHostileValues:
    @pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
    def test_what_fits_is_there_and_nothing_else(self, tmp_path, column):
        """A value that does not fit is NULL in its column, and stays in `event`."""
        cases = FITTING[column.type] + [(value, None) for value in UNFITTING[column.type]]
        lines = [line_of(nested(column.flat, value)) for value, _expected in cases]
        rows = rows_of(encode(lines, [facts_of(line) for line in lines]), tmp_path)

        assert [row[EVENT].encode() + b"\n" for row in rows] == lines
        for (value, expected), row in zip(cases, rows, strict=True):
            assert row[column.name] == expected, value

    def test_odd_lines(self, tmp_path):
        """Lines that are odd JSON fail nothing."""
        lines = [
            b"{}\n",
            b"null\n",
            b"[1,2]\n",
            b'"text"\n',
            b'{"event":"a","event":"b"}\n',
            b'{"event":"\\u0000"}\n',
            b'{"location":{"latitude":1e999}}\n',
            b'{"location":{"latitude":%d}}\n' % HUGE,
            b'{"event":' * 5_000 + b"1" + b"}" * 5_000 + b"\n",
            b'{"event":"quote \\" and , and \' and \\\\ "}\n',
        ]
        rows = rows_of(encode(lines), tmp_path)

        assert [row[EVENT].encode() + b"\n" for row in rows] == lines

    def test_long_lines(self, tmp_path):
        """Long lines beside short ones are held, with memory for some of them."""
        lines = [line_of({"event": f"{n}", "x": "é" * (600_000 * (n % 2))}) for n in range(100)]
        lines.append(line_of({"event": "longest", "x": "y" * (70 << 20)}))
        rows = rows_of(encode(lines), tmp_path)

        assert [row[EVENT].encode() + b"\n" for row in rows] == lines

    def test_none(self, tmp_path):
        """A file without events has the columns too."""
        assert rows_of(encode([]), tmp_path) == []


class TestRefusals:
    @pytest.mark.parametrize(
        "lines",
        [
            b'{"a":1}\n{"b"',
            b'{"a":1}\n\0\0\0\0\n',
            b'{"a":"\xff"}\n',
            b"no JSON\n",
            b"{}\n\n{}\n",
            b'{"event":"\\ud800"}\n',
        ],
        ids=repr,
    )
    def test_no_lines(self, lines):
        """What is cut off, or no JSON of segsrv's, is refused rather than changed."""
        with pytest.raises(NotConverted):
            encode([lines])

    def test_interrupt(self, tmp_path):
        """A conversion ends soon when it is interrupted, before its start too."""
        path = tmp_path / "lines"
        path.write_bytes(line_of({"event": "x" * 900}) * 100_000)
        with path.open("rb") as source, (tmp_path / "out").open("wb") as target:
            conversion = Conversion(source.fileno(), target.fileno())
            thread = threading.Timer(0.1, conversion.interrupt)
            thread.start()
            with pytest.raises(NotConverted):
                _run_on(conversion)
            thread.join()


def _run_on(conversion: Conversion) -> None:
    while True:
        conversion.run()


def test_size_of_the_lines_is_kept(tmp_path):
    """A file says how many bytes the lines had of which it was made."""
    lines = [line_of({"event": f"x{n}" * 100}) for n in range(100)]
    path = tmp_path / "o.parquet"
    path.write_bytes(encode(lines))
    with path.open("rb") as file:
        assert source_bytes(file.fileno()) == sum(map(len, lines))
    path.write_bytes(b"PAR1 and so on PAR1")
    with path.open("rb") as file, pytest.raises((NotConverted, OSError)):
        source_bytes(file.fileno())


def test_size_of_the_lines_cant_be_forged(tmp_path):
    """An event that holds the name of that entry doesn't change it."""
    line = line_of({"event": SOURCE_BYTES, "name": f"\x18\x14{SOURCE_BYTES}\x18\x041234"})
    path = tmp_path / "o.parquet"
    path.write_bytes(encode([line]))
    with path.open("rb") as file:
        assert source_bytes(file.fileno()) == len(line)


async def test_the_loop_goes_on():
    """While a thread encodes, the event loop has its turns: the lock is not held throughout."""
    lines = [line_of({"event": "x" * 900})] * 20_000
    turns = 0
    work = asyncio.create_task(asyncio.to_thread(encode, lines))
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    with contextlib.suppress(NotConverted):
        await work

    assert turns > 100


def test_no_descriptor_is_left():
    """Encoding leaves no file open, whether or not it succeeds."""
    encode([b"{}\n"])
    before = len(list(DESCRIPTORS.iterdir()))
    encode([b"{}\n"])
    with pytest.raises(NotConverted):
        encode([b"{}"])

    assert len(list(DESCRIPTORS.iterdir())) == before
