"""The mappers against the rule tables, on many events."""

from copy import deepcopy

import orjson
import pytest
from hypothesis import given, settings

from segsrv.events.reference.compat import map_compat
from segsrv.events.reference.flat import map_flat
from tests.events.event_strategies import EVENTS
from tests.events.rule_table import COMPAT_RULES, FLAT_RULES, run_table


def text(event):
    """Return *event* in a form that tells 1, 1.0 and true apart, whatever the order of keys."""
    return orjson.dumps(event, option=orjson.OPT_SORT_KEYS).decode()


@given(EVENTS)
@settings(deadline=None, max_examples=800)
def test_flat_mapper_equals_the_table(event):
    """The flat mapper gives what the flat table gives, for any object."""
    assert text(map_flat(deepcopy(event))) == text(run_table(FLAT_RULES, event))


@given(EVENTS)
@settings(deadline=None, max_examples=800)
def test_compat_mapper_equals_the_table(event):
    """The compat mapper gives what the compat table gives, for any object."""
    assert text(map_compat(deepcopy(event))) == text(run_table(COMPAT_RULES, event))


@pytest.mark.parametrize("rules", [FLAT_RULES, COMPAT_RULES], ids=["flat", "compat"])
def test_the_tables_are_complete(rules):
    """Both tables hold the rules 1 to 37 in that order."""
    assert list(dict.fromkeys(rule.number for rule in rules)) == list(range(1, 38))


def test_the_compat_table_differs_as_described():
    """The compat table has no `/user/id` and takes `location` off the root after rule 17."""
    assert not any("/user/id" in path for rule in COMPAT_RULES for path in rule.destinations)
    assert [rule.source for rule in COMPAT_RULES if rule.number == 17] == [
        "/context/location",
        "/location",
    ]
    roots = {path.split("/")[1] for rule in COMPAT_RULES for path in rule.destinations}
    assert roots == {"eventn_ctx", "event_type", "source_ip", ""}
