"""docs/events.md shows what is stored, to the letter."""

import json
import re

import pytest

from segsrv.events.columns import COLUMNS
from segsrv.events.user_agents import UserAgents
from tests.events.event_runs import store
from tests.server_process import REPOSITORY

PAGE = (REPOSITORY / "docs" / "events.md").read_text("utf-8")
SENT, FLAT, COMPAT, SEGMENT, ODD, ODD_FLAT, ODD_SEGMENT = map(
    json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
)


def locate(source):
    return {"country": "GB", "city": "London"} if source == "81.2.69.142" else None


@pytest.mark.parametrize(
    ("sent", "output", "shown"),
    [
        (SENT, "flat", FLAT),
        (SENT, "compat", COMPAT),
        (SENT, "segment", SEGMENT),
        (ODD, "flat", ODD_FLAT),
        (ODD, "segment", ODD_SEGMENT),
    ],
    ids=["flat", "compat", "segment", "odd flat", "odd segment"],
)
def test_what_is_shown_is_what_is_stored(sent, output, shown):
    """Each example is what becomes of the event above it, in this order of its keys."""
    stored = store(
        sent,
        output,
        api_key="web-key",
        address="81.2.69.142",
        is_client=True,
        parse_user_agent=UserAgents(entries_max=10).parse,
        locate=locate,
    )
    assert json.dumps(stored) == json.dumps(shown)


@pytest.mark.parametrize("shown", [FLAT, COMPAT["eventn_ctx"], SEGMENT], ids=["flat", "c", "s"])
def test_every_field_is_explained(shown):
    """What the examples hold beside the customer's own properties is in one of the tables."""
    tables = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    own = {"total", "currency", "library"}
    missing = [name for name in shown.keys() - own if not re.search(rf"\b{name}\b", tables)]
    assert missing == []


def test_columns_have_their_values_where_the_page_says():
    """The path of each column leads to a value that the example of its format has."""
    without = {"name", "groupId", "medium", "term", "content", "region", "latitude", "longitude"}
    without |= {"os_version", "device_family", "bot"}
    for column in COLUMNS:
        for shown, path in (
            (FLAT, column.flat),
            (COMPAT, column.compat),
            (SEGMENT, column.segment),
        ):
            found = shown
            for name in path[:-1]:
                found = found[name]
            is_there = path[-1] in found
            assert is_there or path[-1] in without, (column.name, path)
