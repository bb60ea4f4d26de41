"""docs/sinks/kafka.md says what the code does, and its example runs."""

import asyncio
import dataclasses
import re
import sys

from segsrv.sinks.kafka.kind import KAFKA
from segsrv.sinks.kafka.options import KafkaOptions
from tests.server_process import REPOSITORY
from tests.sinks.kafka_sinks import batch, make_sink, opened

TEXT = (REPOSITORY / "docs" / "sinks" / "kafka.md").read_text()
READER_TIMEOUT_S = 60.0


def rows(head):
    """Return the rows of the table whose first column is called *head*, each as its cells."""
    table = re.search(rf"^\| {head} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert table, head
    return [
        [cell.strip(" `") for cell in row.strip("|").split(" | ")] for row in table[1].splitlines()
    ]


def test_the_table_has_every_option_with_its_default():
    """In the order of the code; where there is none, a word says what holds."""
    known = dataclasses.fields(KafkaOptions)
    documented = rows("option")

    assert [row[0] for row in documented] == [field.name for field in known]
    for row, field in zip(documented, known, strict=True):
        if field.default not in (None, (), ""):
            shown = str(field.default).lower() if field.type == "bool" else str(field.default)
            assert row[1] == shown, field.name


def test_the_table_has_every_secret():
    """Their names are the only ones that a table may use."""
    assert tuple(row[0] for row in rows("secret")) == KAFKA.secrets


async def test_the_reader_prints_each_event(kafka):
    """Copied from the page, with this broker and topic."""
    topic = "events-of-the-docs"
    async with opened(make_sink(kafka.port, topic, mode="transactional")) as sink:
        await sink.send(batch("b", range(3)), {})
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    code = code.replace("localhost:9092", f"127.0.0.1:{kafka.direct_port}")
    code = code.replace('"events"', f'"{topic}"')
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    printed, _errors = await asyncio.wait_for(reader.communicate(), READER_TIMEOUT_S)

    assert sorted(line.split()[0] for line in printed.decode().splitlines()) == [
        "id-0",
        "id-1",
        "id-2",
    ]
