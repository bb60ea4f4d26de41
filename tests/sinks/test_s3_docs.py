"""What docs/sinks/s3.md and docs/warehouses.md say holds."""

import dataclasses
import json
import re
from pathlib import Path

import duckdb
import pytest

from segsrv.events.columns import COLUMNS, EVENT, FACTS
from segsrv.sinks.s3.kind import S3, S3Options
from tests.server_process import REPOSITORY, ServerProcess
from tests.services.s3_service import BUCKET, secret_of
from tests.site import COMPAT, Site, new_id

PAGE = (REPOSITORY / "docs" / "sinks" / "s3.md").read_text()
WAREHOUSES = (REPOSITORY / "docs" / "warehouses.md").read_text()


def rows(page: str, first: str) -> list[list[str]]:
    """Return the cells of the table whose first heading is *first*."""
    table = page[page.index(f"| {first} |") :].split("\n\n", 1)[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]
    ]


def statements(title: str) -> list[str]:
    section = WAREHOUSES[WAREHOUSES.index(f"## {title}\n") :].split("\n## ")[0]
    return re.findall(r"```sql\n(.*?)```", section, re.DOTALL)


def columns_in(statement: str) -> set[str]:
    return set(re.findall(r"^    (\w+) [A-Z]+,?$", statement, re.MULTILINE))


class TestPage:
    def test_every_option_is_there_with_its_default(self):
        """In the order of the code, with a unit and a reason."""
        defaults = {
            field.name: "none" if field.default is None else f"`{json.dumps(field.default)}`"
            for field in dataclasses.fields(S3Options)
        }
        assert [
            (name.strip("| `"), default) for name, default, _unit, _why in rows(PAGE, "option")
        ] == [*defaults.items()]

    def test_limits_of_batches_are_those_of_the_code(self):
        """A batch is sent after so long, so many events, or so many bytes."""
        assert (
            f"after {S3.batch_interval_s:g} s, {S3.batch_events_max:,} events or "
            f"{S3.batch_bytes_max >> 20} MiB"
        ) in PAGE

    def test_every_test_that_it_names_is_there(self):
        """What is guaranteed is shown."""
        code = (REPOSITORY / "tests" / "sinks" / "test_s3_faults.py").read_text()
        named = [test.strip("|` ") for _what, test in rows(PAGE, "what breaks")]
        assert len(named) == 6
        for test in named:
            assert f"def {test}(" in code

    def test_columns_of_examples_are_columns(self):
        """Athena finds those of Parquet by their names, and says nothing of one that is missing."""
        known = {column.name for column in (*FACTS, *COLUMNS)} | {EVENT}
        named = columns_in(statements("Athena")[0])
        assert len(named) == 9
        assert named < known

    def test_every_message_that_it_names_is_there(self):
        """As the code has it."""
        code = "".join(
            (REPOSITORY / "segsrv" / "sinks" / "s3" / name).read_text()
            for name in ("sink.py", "errors.py")
        )
        for messages, _what in rows(PAGE, "message"):
            for message in re.findall(r"`([^`]+)`", messages):
                assert message.partition("…")[0] in code, message


SITE_URL = "https://a/b"


@pytest.fixture(scope="module")
def objects(s3_service, tmp_path_factory) -> tuple[Path, list[str]]:
    """Return a copy of what a server stored in a bucket, in both encodings, and the events' ids."""
    folder = tmp_path_factory.mktemp("warehouse")
    tables = [
        f"""
[[sinks]]
name = "{encoding}"
url = "s3://{BUCKET}/{encoding}"
encoding = "{encoding}"
options.endpoint = "{s3_service.endpoint}"
secrets.access_key_id = {{ env = "LAKE_KEY" }}
secrets.secret_access_key = {{ env = "LAKE_SECRET" }}
"""
        for encoding in ("ndjson", "parquet")
    ]
    (folder / "segsrv.toml").write_text("".join(tables))
    environ = {"LAKE_KEY": "segsrv", "LAKE_SECRET": secret_of("segsrv")}
    ids = [new_id() for _number in range(6)]
    config = ("--config", str(folder / "segsrv.toml"))
    with ServerProcess(folder / "data", *config, environ=environ) as process:
        for number, event_id in enumerate(ids):
            context = {"page": {"url": SITE_URL}}
            event = {"event_id": event_id, "type": "page", "context": context}
            path = {"path": COMPAT} if number % 2 else {}
            assert Site(process).post(event, **path).status == 200
        process.stop()
    for key, content in s3_service.objects().items():
        prefix, _slash, rest = key.partition("/")
        if prefix in ("ndjson", "parquet"):
            path = folder / "events" / rest
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder / "events", ids


class TestDuckDb:
    def test_the_statements_find_every_event(self, objects):
        """On copies of the objects below a folder, where the page has the bucket."""
        folder, ids = objects
        *queries, create = (
            text.replace("s3://my-bucket/events", str(folder)).replace("dt=2026-11-*", "dt=*")
            for text in statements("DuckDB")
        )
        assert len(queries) == 2
        with duckdb.connect() as connection:
            for query in queries:
                [(dt, kind, url, events)] = connection.execute(query).fetchall()
                assert (kind, url, events) == ("page", SITE_URL, len(ids))
                assert f"dt={dt}" in {path.name for path in folder.iterdir()}
            connection.execute(create)
            found = connection.execute(
                "SELECT event_id FROM events WHERE received_at > '2026-01-01'"
            )
            assert sorted(row[0] for row in found.fetchall()) == sorted(ids)
