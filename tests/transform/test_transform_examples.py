"""The examples of docs/transform_examples/ do what they say, and the page shows each as it is."""

import importlib
import re
import sys

import pytest

from segsrv.testing import apply
from tests.server_process import REPOSITORY

EXAMPLES = REPOSITORY / "docs" / "transform_examples"
PAGE = REPOSITORY / "docs" / "transformations.md"


@pytest.fixture(autouse=True)
def _examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def function(name):
    return getattr(importlib.import_module(name), name)


def test_bots_are_dropped():
    """Events of crawlers are dropped in each format, others pass."""
    drop_bots = function("drop_bots")
    bot, person = {"parsed_ua": {"bot": True}}, {"parsed_ua": {"ua_family": "Firefox"}}
    assert apply(drop_bots, bot) == []
    assert apply(drop_bots, {"eventn_ctx": bot}, format="compat") == []
    assert apply(drop_bots, {"context": {"parsedUserAgent": {"bot": True}}}, format="segment") == []
    assert apply(drop_bots, person) == [person]
    assert apply(drop_bots, {"n": 1}) == [{"n": 1}]


def test_addresses_are_hashed():
    """The same address is the same token wherever it stands, and is nowhere to be read."""
    event = {"email": "Ada@Example.com", "text": "from ada@example.com, b@c.de", "a": [{"b": "@"}]}
    (found,) = apply(function("hash_emails"), event)
    assert re.fullmatch(r"email:[0-9a-f]{16}", found["email"])
    assert found["text"].startswith(f"from {found['email']}, email:")
    assert "@" not in found["text"]
    assert found["a"] == [{"b": "@"}]


def test_names_are_changed():
    """Fields and events have their new names, and keep their order."""
    event = {"event": "Purchase", "prodId": "p-1", "other": 1}
    (found,) = apply(function("rename"), event)
    assert list(found.items()) == [
        ("event", "Order Completed"),
        ("product_id", "p-1"),
        ("other", 1),
    ]


def test_products_are_looked_up():
    """A known product brings its price and category."""
    enrich = function("enrich")
    assert apply(enrich, {"product_id": "p-2"}) == [
        {"product_id": "p-2", "price": 59.0, "category": "games"}
    ]
    assert apply(enrich, {"product_id": "p-9"}) == [{"product_id": "p-9"}]


def test_sinks_get_their_region():
    """Each regional sink gets its own events, others get all."""
    route = function("route")
    event = {"region": "eu"}
    assert apply(route, event, sink="eu") == [event]
    assert apply(route, event, sink="us") == []
    assert apply(route, event, sink="files") == [event]
    assert apply(route, {}, sink="us") == [{}]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_page_shows_it(path):
    """Every example stands in the page, word for word."""
    assert path.read_text().strip() in PAGE.read_text()


def test_the_page_has_code_that_runs(monkeypatch, tmp_path):
    """The first function and the test of it, as they stand in the page, pass."""
    first, test, *_examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "my_functions.py").write_text(first)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict = {}
    exec(test, names)
    names["test_titles_are_short"]()
    sys.modules.pop("my_functions")
