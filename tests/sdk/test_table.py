"""The documentation's table of SDKs says what the tests of this folder saw."""

import os

import observations
import pytest

from tests.server_process import REPOSITORY

PAGE = REPOSITORY / "docs" / "sdks.md"
BEGIN, END = "<!-- sdk-table -->\n", "<!-- /sdk-table -->\n"


def documented() -> tuple[str, str, str]:
    """Return what stands before the table, the table, and what stands behind it."""
    before, begin, rest = PAGE.read_text("utf-8").partition(BEGIN)
    table, end, after = rest.partition(END)
    assert begin, f"{PAGE} has no {BEGIN}"
    assert end, f"{PAGE} has no {END}"
    return before, table, after


def cells(table: str) -> dict[tuple[str, str], dict[str, str]]:
    """Return the rows of a table by SDK and version, each by the names of its columns."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    head, rows = lines[0], lines[2:]
    return {(row[0], row[1]): dict(zip(head, row, strict=True)) for row in rows}


def test_the_documented_table_is_what_was_observed(
    request: pytest.FixtureRequest, missing: list[str]
) -> None:
    """The table is exactly what a complete run saw, and no cell differs from what a part saw."""
    before, table, after = documented()
    observed = observations.table()
    if request.config.getoption("--write-sdk-table"):
        assert not missing, "only a complete run without failures may write the table"
        PAGE.write_text(before + BEGIN + observed + END + after, "utf-8")
        return
    if not missing and os.environ.get("CI") == "true":
        assert table == observed
        return
    rows = cells(table)
    for sdk, row in cells(observed).items():
        seen = {name: text for name, text in row.items() if text != observations.NOT_TESTED}
        said = {name: rows.get(sdk, {}).get(name) for name in seen}
        assert said == seen
