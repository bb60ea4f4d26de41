"""The queries of docs/files.md do what is said of them, on files that the server wrote."""

import re

import duckdb
import orjson
import pytest

from segsrv.events.columns import COLUMNS, EVENT, FACTS
from segsrv.sinks.file.compression import compress
from tests.delivery.stored_files import of_lines, opened, put
from tests.server_process import REPOSITORY

DOCS = (REPOSITORY / "docs" / "files.md").read_text()
QUERIES = {
    match[1]: match[2] for match in re.finditer(r"```sql\n-- ([^\n]*)\n(.*?)```", DOCS, re.DOTALL)
}
PARQUET, PROPERTY, LINES, COMPRESSED, ALL = QUERIES.values()


def events(first: int, name: str, country: str) -> bytes:
    return b"".join(
        orjson.dumps(
            {
                "event": name,
                "plan": f"p{number % 2}",
                "location": {"country": country},
                "ids": {"ajs_anonymous_id": f"a{number % 3}"},
                "eventn_ctx_event_id": f"{number}",
            }
        )
        + b"\n"
        for number in range(first, first + 4)
    )


@pytest.fixture
async def folder(tmp_path, monkeypatch):
    """Return a folder with three files, of which the last one is open."""
    async with opened(monkeypatch, tmp_path, file_bytes_max=1) as sink:
        last: dict = {}
        for lines in (
            events(0, "Signed Up", "GB"),
            events(4, "Signed Up", "FR"),
            events(8, "Other", "GB"),
        ):
            last = await put(sink, of_lines(lines, f"b{len(last)}"), last)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def never() -> bool:
    return False


def closed(folder):
    return sorted((folder / "events").rglob("*.ndjson"))[:2]


def rows(query: str) -> list[tuple]:
    return duckdb.connect().execute(query).fetchall()


def test_lines(folder):
    """Lines are counted, and half a line at the end is left out."""
    *_closed, last = sorted((folder / "events").rglob("*.ndjson"))
    with last.open("ab") as file:
        file.write(b'{"event":"half')

    assert rows(LINES) == [("Other", 4), ("Signed Up", 8)]


@pytest.mark.parametrize("method", ["zstd", "gzip"])
def test_compressed(folder, method):
    """Compressed files are read as they are."""
    for path in closed(folder):
        assert compress(path, method, never)
    query = COMPRESSED.replace(".zst", ".gz") if method == "gzip" else COMPRESSED

    assert rows(query) == [("Signed Up", 8)]


def test_parquet(folder):
    """Parquet files have columns for what is asked most, and the whole event for the rest."""
    for path in closed(folder):
        assert compress(path, "parquet", never)

    assert sorted(rows(PARQUET)) == [("FR", 4, 3), ("GB", 4, 3)]
    assert rows(PROPERTY) == [("p0", 4), ("p1", 4)]


@pytest.mark.parametrize("keeps_original", [False, True])
def test_all(folder, keeps_original):
    """Parquet and open files together have every event once, also while one is replaced."""
    for path in closed(folder):
        content = path.read_bytes()
        assert compress(path, "parquet", never)
        if keeps_original:
            path.write_bytes(content)

    assert rows(ALL) == [("Other", 4), ("Signed Up", 8)]


def test_columns():
    """The table of columns has all of them, with their types, in order."""
    table = re.search(r"\| columns \| type \| what \|\n\|---.*?\n((?:\|.*\n)+)", DOCS)[1]
    documented = {
        name: line.split("|")[2].strip()
        for line in table.splitlines()
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    expected = {column.name: column.type for column in (*FACTS, *COLUMNS)}

    assert documented == expected | {EVENT: "text"}
