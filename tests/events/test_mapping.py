"""Each rule of the mapping by itself, in both formats, and each corner of how the rules run."""

from copy import deepcopy

import pytest

from segsrv.events.reference.compat import map_compat
from segsrv.events.reference.flat import map_flat
from tests.events.rule_table import COMPAT_RULES, FLAT_RULES, run_table

MAPPERS = {"flat": map_flat, "compat": map_compat}
TABLES = {"flat": FLAT_RULES, "compat": COMPAT_RULES}


def tracker(**fields):
    return {"eventn_ctx": fields}


def in_context(**fields):
    return {"context": fields}


def unchanged_root(**fields):
    """Return the same expectation for both formats, where the rule's target is at the root."""
    return fields, fields


# Number, name, event, flat result, compat result.
RULES = [
    (
        1,
        "page title",
        in_context(page={"title": "T"}),
        {"page_title": "T", "doc": {}},
        tracker(page_title="T", doc={}),
    ),
    (
        2,
        "page becomes doc",
        in_context(page={"path": "/a", "url": "u"}),
        {"doc": {"path": "/a", "url": "u"}},
        tracker(doc={"path": "/a", "url": "u"}),
    ),
    (
        3,
        "page referrer",
        in_context(page={"referrer": "r"}),
        {"referer": "r", "doc": {"referrer": "r"}},
        tracker(referer="r", doc={"referrer": "r"}),
    ),
    (4, "root page", {"page": 1, "properties": {"page": 2, "k": 3}}, *unchanged_root(k=3)),
    (5, "traits", {"traits": {"a": 1}}, {"user": {"a": 1}}, tracker(user={"a": 1})),
    (
        6,
        "context traits",
        {"traits": {"a": 1}, "context": {"traits": {"b": 2}}},
        {"user": {"b": 2}},
        tracker(user={"b": 2}),
    ),
    (7, "root traits", {"properties": {"traits": {"a": 1}, "k": 3}}, *unchanged_root(k=3)),
    (
        8,
        "user agent",
        in_context(userAgent="UA"),
        {"user_agent": "UA"},
        tracker(user_agent="UA"),
    ),
    (9, "root userAgent", {"userAgent": 1, "properties": {"userAgent": 2}}, {}, {}),
    (
        10,
        "anonymous id among ids",
        {"anonymousId": "a", "properties": {"user": 1}, "context": {"eventn_ctx": {}}},
        {"ids": {"ajs_anonymous_id": "a"}, "user": 1, "eventn_ctx": {}},
        {"eventn_ctx": {}, "user": 1},
    ),
    (
        11,
        "anonymous id of the user",
        {"anonymousId": "a"},
        {"ids": {"ajs_anonymous_id": "a"}, "user": {"anonymous_id": "a"}},
        tracker(ids={"ajs_anonymous_id": "a"}, user={"anonymous_id": "a"}),
    ),
    (
        12,
        "user id among ids",
        {"userId": "u", "properties": {"user": 1}, "context": {"eventn_ctx": {}}},
        {"ids": {"ajs_user_id": "u"}, "user": 1, "eventn_ctx": {}},
        {"eventn_ctx": {}, "user": 1},
    ),
    (
        13,
        "user id of the user",
        {"userId": "u"},
        {"ids": {"ajs_user_id": "u"}, "user": {"internal_id": "u", "id": "u"}},
        tracker(ids={"ajs_user_id": "u"}, user={"internal_id": "u"}),
    ),
    (
        14,
        "campaign",
        in_context(campaign={"source": "s"}),
        {"utm": {"source": "s"}},
        tracker(utm={"source": "s"}),
    ),
    (
        15,
        "campaign name",
        in_context(campaign={"name": "n"}),
        {"utm": {"name": "n", "campaign": "n"}},
        tracker(utm={"name": "n", "campaign": "n"}),
    ),
    (16, "root campaign", {"campaign": 1, "properties": {"campaign": 2}}, {}, {}),
    (
        17,
        "location",
        {"location": 1, "properties": {"location": 2}, "context": {"location": {"city": "B"}}},
        {"location": {"city": "B"}},
        tracker(location={"city": "B"}),
    ),
    (
        18,
        "referrer url",
        in_context(referrer={"url": "r", "type": "t"}, page={"referrer": "p"}),
        {"referer": "r", "referrer": {"type": "t"}, "doc": {"referrer": "p"}},
        {"eventn_ctx": {"referer": "r", "doc": {"referrer": "p"}}, "referrer": {"type": "t"}},
    ),
    *(
        (
            number,
            f"{holder} {name}",
            in_context(**{holder: {name: "v", "other": 1}}),
            {"parsed_ua": {target: "v"}},
            tracker(parsed_ua={target: "v"}),
        )
        for number, holder, name, target in (
            (19, "os", "name", "os_family"),
            (20, "os", "version", "os_version"),
            (22, "device", "manufacturer", "device_brand"),
            (23, "device", "model", "device_model"),
            (24, "device", "version", "ua_version"),
            (25, "device", "advertisingId", "device_advertising_id"),
            (26, "device", "id", "device_id"),
            (27, "device", "name", "device_name"),
            (28, "device", "type", "device_type"),
        )
    ),
    (21, "root os", {"os": 1, "properties": {"os": 2}, "context": {"os": {}}}, {}, {}),
    (29, "root device", {"device": 1, "properties": {"device": 2}}, {}, {}),
    (
        30,
        "locale",
        in_context(locale="de-DE"),
        {"user_language": "de-DE"},
        tracker(user_language="de-DE"),
    ),
    (31, "type", {"type": "track"}, *unchanged_root(event_type="track")),
    (32, "ip", in_context(ip="1.1.1.1"), *unchanged_root(source_ip="1.1.1.1")),
    (33, "root ip", {"ip": 1, "properties": {"ip": 2}}, {}, {}),
    (34, "root locale", {"locale": 1, "properties": {"locale": 2}}, {}, {}),
    (
        35,
        "context user_agent",
        in_context(userAgent="A", user_agent="B"),
        {"user_agent": "B"},
        # The context is laid over the root whole, and no rule takes this key off again.
        {"eventn_ctx": {"user_agent": "B"}, "user_agent": "B"},
    ),
    (36, "properties", {"properties": {"plan": "P", "n": None}}, *unchanged_root(plan="P", n=None)),
    (
        37,
        "context",
        in_context(app={"name": "a"}, library=1, network=2, screen=3, timezone="t", odd=None),
        *unchanged_root(app={"name": "a"}, library=1, network=2, screen=3, timezone="t", odd=None),
    ),
]

CORNERS = [
    (
        "1: title leaves doc, referrer stays in it",
        in_context(page={"title": "T", "referrer": "r", "path": "/"}),
        {"page_title": "T", "referer": "r", "doc": {"referrer": "r", "path": "/"}},
        tracker(page_title="T", referer="r", doc={"referrer": "r", "path": "/"}),
    ),
    (
        "1: ids are written into the traits themselves",
        {"anonymousId": "a", "userId": "u", "traits": {"id": "old", "anonymous_id": 0, "k": 1}},
        {
            "ids": {"ajs_anonymous_id": "a", "ajs_user_id": "u"},
            "user": {"anonymous_id": "a", "internal_id": "u", "id": "u", "k": 1},
        },
        tracker(
            ids={"ajs_anonymous_id": "a", "ajs_user_id": "u"},
            user={"anonymous_id": "a", "internal_id": "u", "id": "old", "k": 1},
        ),
    ),
    (
        "1: ids are written into the context's traits where there are some",
        {"userId": "u", "traits": {"a": 1}, "context": {"traits": {"b": 2}}},
        {"ids": {"ajs_user_id": "u"}, "user": {"b": 2, "internal_id": "u", "id": "u"}},
        tracker(ids={"ajs_user_id": "u"}, user={"b": 2, "internal_id": "u"}),
    ),
    (
        "1: empty traits of the context replace the event's own",
        {"traits": {"a": 1}, "context": {"traits": {}}},
        {"user": {}},
        tracker(user={}),
    ),
    (
        "1: campaign of the campaign is replaced by its name",
        in_context(campaign={"name": "n", "campaign": "c"}),
        {"utm": {"name": "n", "campaign": "n"}},
        tracker(utm={"name": "n", "campaign": "n"}),
    ),
    (
        "2: url leaves the referrer, which reaches the root even empty",
        in_context(referrer={"url": "r"}),
        {"referer": "r", "referrer": {}},
        {"eventn_ctx": {"referer": "r"}, "referrer": {}},
    ),
    (
        "2: a referrer without url stays whole",
        in_context(referrer={"type": "t"}, page={"referrer": "p"}),
        {"referer": "p", "doc": {"referrer": "p"}, "referrer": {"type": "t"}},
        {
            "eventn_ctx": {"referer": "p", "doc": {"referrer": "p"}},
            "referrer": {"type": "t"},
        },
    ),
    (
        "2: what the device and the os hold besides is gone",
        in_context(os={"build": 1}, device={"token": 2}),
        {},
        {},
    ),
    (
        "3: properties lie over mapped fields",
        {
            "type": "track",
            "anonymousId": "a",
            "properties": {"event_type": "p", "ids": 1, "user": 2, "source_ip": 3, "doc": 4},
            "context": {"ip": "1.1.1.1", "page": {"path": "/"}},
        },
        {"event_type": "p", "ids": 1, "user": 2, "source_ip": 3, "doc": 4},
        {
            "event_type": "p",
            "ids": 1,
            "user": 2,
            "source_ip": 3,
            "doc": 4,
            "eventn_ctx": {
                "ids": {"ajs_anonymous_id": "a"},
                "user": {"anonymous_id": "a"},
                "doc": {"path": "/"},
            },
        },
    ),
    (
        "3: the context lies over properties",
        {"properties": {"app": 1, "k": 1, "user_agent": 1}, "context": {"app": 2, "user_agent": 2}},
        {"app": 2, "k": 1, "user_agent": 2},
        {"app": 2, "k": 1, "user_agent": 2, "eventn_ctx": {"user_agent": 2}},
    ),
    (
        "3: a property may replace the tracker's object",
        {"anonymousId": "a", "properties": {"eventn_ctx": {"k": 1}}},
        {
            "eventn_ctx": {"k": 1},
            "ids": {"ajs_anonymous_id": "a"},
            "user": {"anonymous_id": "a"},
        },
        {"eventn_ctx": {"k": 1}},
    ),
    (
        "3: properties and context may bring mapped names to the root",
        {
            "properties": {"type": 1, "properties": 2, "context": 3, "anonymousId": 4},
            "context": {"userId": 5, "properties": 6},
        },
        *unchanged_root(type=1, properties=6, context=3, anonymousId=4, userId=5),
    ),
    (
        "4: fields without a rule stay",
        {
            "event": "E",
            "timestamp": "t",
            "sentAt": "s",
            "integrations": {"All": True},
            "groupId": "g",
            "previousId": "p",
            "name": "n",
            "_metadata": {"k": [1]},
            "unknown": None,
        },
        *unchanged_root(
            event="E",
            timestamp="t",
            sentAt="s",
            integrations={"All": True},
            groupId="g",
            previousId="p",
            name="n",
            _metadata={"k": [1]},
            unknown=None,
        ),
    ),
    (
        "4: mapped fields lie over those of the same name",
        {
            "event_type": "old",
            "source_ip": "old",
            "user": {"old": 1},
            "eventn_ctx": {"old": 1},
            "type": "page",
            "userId": "u",
            "context": {"ip": "1.1.1.1"},
        },
        {
            "event_type": "page",
            "source_ip": "1.1.1.1",
            "user": {"internal_id": "u", "id": "u"},
            "ids": {"ajs_user_id": "u"},
            "eventn_ctx": {"old": 1},
        },
        {
            "event_type": "page",
            "source_ip": "1.1.1.1",
            "user": {"old": 1},
            "eventn_ctx": {"ids": {"ajs_user_id": "u"}, "user": {"internal_id": "u"}},
        },
    ),
    (
        "4: a field at the root lies under the property of its name",
        {"event": "E", "properties": {"event": "P"}, "context": {"event": "C"}},
        *unchanged_root(event="C"),
    ),
    (
        "5: properties of eight names do not survive",
        {
            "properties": dict.fromkeys(
                ("page", "traits", "os", "device", "ip", "locale", "campaign", "userAgent"), 1
            )
            | {"user_agent": 1}
        },
        *unchanged_root(user_agent=1),
    ),
    (
        "5: compat takes location off the root, whoever put it there",
        {"location": 1, "properties": {"location": 2, "k": 1}},
        {"location": 2, "k": 1},
        {"k": 1},
    ),
    (
        "5: removals spare what lies deeper",
        {"properties": {"deep": {"page": 1, "ip": 2}}},
        *unchanged_root(deep={"page": 1, "ip": 2}),
    ),
]

NON_OBJECTS = [
    ("page", in_context(page="p"), {"doc": "p"}, tracker(doc="p")),
    ("page list", in_context(page=["title"]), {"doc": ["title"]}, tracker(doc=["title"])),
    ("campaign", in_context(campaign="name"), {"utm": "name"}, tracker(utm="name")),
    ("referrer", in_context(referrer="url"), *unchanged_root(referrer="url")),
    ("os and device", in_context(os="name", device=["model"]), {}, {}),
    ("null page", in_context(page=None), {"doc": None}, tracker(doc=None)),
    (
        "null title and referrer",
        in_context(page={"title": None, "referrer": None}),
        {"page_title": None, "referer": None, "doc": {"referrer": None}},
        tracker(page_title=None, referer=None, doc={"referrer": None}),
    ),
    (
        "null ids",
        {"anonymousId": None, "userId": None, "type": None},
        {
            "ids": {"ajs_anonymous_id": None, "ajs_user_id": None},
            "user": {"anonymous_id": None, "internal_id": None, "id": None},
            "event_type": None,
        },
        {
            "eventn_ctx": {
                "ids": {"ajs_anonymous_id": None, "ajs_user_id": None},
                "user": {"anonymous_id": None, "internal_id": None},
            },
            "event_type": None,
        },
    ),
    (
        "null context values",
        in_context(userAgent=None, locale=None, ip=None, campaign=None, location=None, os=None),
        {
            "user_agent": None,
            "user_language": None,
            "source_ip": None,
            "utm": None,
            "location": None,
        },
        {
            "eventn_ctx": {
                "user_agent": None,
                "user_language": None,
                "utm": None,
                "location": None,
            },
            "source_ip": None,
        },
    ),
    (
        "null user_agent over userAgent",
        in_context(userAgent="A", user_agent=None),
        {"user_agent": None},
        {"eventn_ctx": {"user_agent": None}, "user_agent": None},
    ),
    (
        "null parts",
        in_context(
            os={"name": None}, device={"id": None}, campaign={"name": None}, referrer={"url": None}
        ),
        {
            "parsed_ua": {"os_family": None, "device_id": None},
            "utm": {"name": None, "campaign": None},
            "referer": None,
            "referrer": {},
        },
        {
            "eventn_ctx": {
                "parsed_ua": {"os_family": None, "device_id": None},
                "utm": {"name": None, "campaign": None},
                "referer": None,
            },
            "referrer": {},
        },
    ),
]


def _cases():
    for number, name, *case in RULES:
        yield f"rule {number:02}: {name}", *case
    for name, *case in CORNERS:
        yield f"corner {name}", *case
    for name, *case in NON_OBJECTS:
        yield f"value that is no object: {name}", *case


def _parameters(output):
    return [
        pytest.param(event, flat if output == "flat" else compat, id=name)
        for name, event, flat, compat in _cases()
    ]


@pytest.mark.parametrize(("event", "expected"), _parameters("flat"))
def test_flat(event, expected):
    """The flat format of an event that shows one rule, or one corner, is exactly this."""
    assert map_flat(deepcopy(event)) == expected


@pytest.mark.parametrize(("event", "expected"), _parameters("compat"))
def test_compat(event, expected):
    """The compat format of an event that shows one rule, or one corner, is exactly this."""
    assert map_compat(deepcopy(event)) == expected


@pytest.mark.parametrize("output", MAPPERS)
def test_the_table_agrees_with_each_case(output):
    """The interpreted table, which the generated events trust, gives the same on each case."""
    for name, event, flat, compat in _cases():
        expected = flat if output == "flat" else compat
        assert run_table(TABLES[output], event) == expected, name


def test_each_rule_has_a_case():
    """No rule from 1 to 37 is without its own case."""
    assert sorted(number for number, *_ in RULES) == list(range(1, 38))


@pytest.mark.parametrize("output", MAPPERS)
@pytest.mark.parametrize("empty", [None, [], ""], ids=["null", "list", "text"])
class TestEmptyContainers:
    """A container that is null or empty counts as absent."""

    @pytest.mark.parametrize("name", ["context", "properties", "traits"])
    def test_of_the_event(self, output, empty, name):
        """An empty `context`, `properties` or `traits` leaves no trace."""
        assert MAPPERS[output]({name: empty, "k": 1}) == {"k": 1}

    def test_traits_of_the_context(self, output, empty):
        """Empty traits of the context leave the event's own in force."""
        mapped = MAPPERS[output]({"traits": {"a": 1}, "context": {"traits": empty, "k": 1}})
        expected = {"user": {"a": 1}} if output == "flat" else tracker(user={"a": 1})
        assert mapped == expected | {"k": 1}


@pytest.mark.parametrize("output", MAPPERS)
@pytest.mark.parametrize("value", ["text", 0, 1.5, False, True, [0], [{"a": 1}]], ids=repr)
class TestRawContainers:
    """A container that holds something else is kept aside and maps nothing."""

    @pytest.mark.parametrize("name", ["context", "properties", "traits"])
    def test_of_the_event(self, output, value, name):
        """What is no object is kept under the name with `_raw`, and the rest is mapped."""
        mapped = MAPPERS[output]({name: value, "type": "track", "k": 1})
        assert mapped == {f"{name}_raw": value, "event_type": "track", "k": 1}

    def test_traits_of_the_context(self, output, value):
        """Traits of the context that are no object replace nothing, and are kept at the root."""
        mapped = MAPPERS[output]({"traits": {"a": 1}, "context": {"traits": value}})
        expected = {"user": {"a": 1}} if output == "flat" else tracker(user={"a": 1})
        assert mapped == expected | {"traits_raw": value}

    def test_over_a_property_of_that_name(self, output, value):
        """What is kept wins over a property that happens to have its name."""
        mapped = MAPPERS[output]({"traits": value, "properties": {"traits_raw": "p"}})
        assert mapped == {"traits_raw": value}
