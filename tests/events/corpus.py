"""Requests of our own making that have every shape the mapping speaks of, in every place.

Each part of an event has a list of values it may have. There is one event for each of these values,
in which the other parts are drawn with a fixed seed; so every value is met, beside many others.
Every event is sent by itself and in batches, to each kind of path, in both formats.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.site import COMPAT, FLAT

BATCH_EVENTS = 12
PART_PROBABILITY = 0.35

MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko)"
CHROME = f"{MAC} Chrome/91.0.4472.164 Safari/537.36"
BLACKBERRY = "BlackBerry8520/5.0.0.681 Profile/MIDP-2.1 Configuration/CLDC-1.1 VendorID/600"
GOOGLEBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/16.5 Mobile/15E148 Safari/604.1"
)
LONDON, MOSCOW, TOKYO, MILTON = "81.2.69.142", "83.220.56.2", "2001:218::1", "216.160.83.56"

# The records of the databases that the corpus is replayed with, by database and network.
DATABASES: dict[str, dict[str, dict[str, Any]]] = {
    "GeoIP2-City": {
        "81.2.69.0/24": {
            "continent": {"code": "EU", "names": {"de": "Europa", "en": "Europe"}},
            "country": {"iso_code": "GB", "names": {"de": "UK", "en": "United Kingdom"}},
            "city": {"names": {"de": "Londres", "en": "London"}},
            "location": {"latitude": 51.5142, "longitude": -0.0931, "accuracy_radius": 10},
            "postal": {"code": "EC1A"},
            "subdivisions": [{"iso_code": "ENG"}, {"iso_code": "LND"}],
        },
        "83.220.56.0/24": {
            "continent": {"code": "EU", "names": {"en": "Europe"}},
            "country": {"iso_code": "RU", "names": {"en": "Russia"}},
            "subdivisions": [{"iso_code": "MOW"}],
            "location": {"latitude": 0.0, "longitude": 37.6},
            "postal": {"code": ""},
        },
        "2001:218::/32": {
            "continent": {"code": "AS", "names": {"en": "Asia"}},
            "country": {"iso_code": "JP", "names": {"en": "Japan"}},
        },
        "216.160.83.0/24": {"country": {"iso_code": "US", "names": {"en": "United States"}}},
    },
    "GeoIP2-ISP": {
        "81.2.69.0/24": {
            "autonomous_system_number": 20712,
            "autonomous_system_organization": "Andrews & Arnold Ltd",
            "isp": "Andrews & Arnold",
            "organization": "",
        },
        "1.128.0.0/24": {"autonomous_system_number": 1221, "isp": "Telstra"},
    },
    "GeoIP2-Domain": {"216.160.83.0/24": {"domain": "example.com"}},
}
# What they are to give, written by hand.
LOCATIONS: dict[str, dict[str, Any]] = {
    LONDON: {
        "continent": "Europe",
        "country": "GB",
        "country_name": "United Kingdom",
        "city": "London",
        "latitude": 51.5142,
        "longitude": -0.0931,
        "zip": "EC1A",
        "region": "ENG",
        "autonomous_system_number": 20712,
        "autonomous_system_organization": "Andrews & Arnold Ltd",
        "isp": "Andrews & Arnold",
    },
    MOSCOW: {
        "continent": "Europe",
        "country": "RU",
        "country_name": "Russia",
        "region": "RU-MOW",
        "longitude": 37.6,
    },
    TOKYO: {"continent": "Asia", "country": "JP", "country_name": "Japan"},
    MILTON: {"country": "US", "country_name": "United States", "domain": "example.com"},
    "1.128.0.1": {"autonomous_system_number": 1221, "isp": "Telstra"},
}
# Of the countries above, and of one that is not known, those where `comply` is strict.
CONSENT = ("GB", None)
# Minutes from UTC of zones that know no summer time.
ZONES = {"Etc/UTC": 0, "Asia/Kolkata": 330, "Asia/Kathmandu": 345, "America/Phoenix": -420}

_USER_AGENTS = [CHROME, BLACKBERRY, GOOGLEBOT, IPHONE, "curl/7.68.0", "zzz", "", None, 5, [CHROME]]
_NON_OBJECTS = [None, [], "", "text", 0, False, [1]]
_TRAITS = [{}, {"email": "a@b.example"}, {"id": "old", "anonymous_id": 0}, *_NON_OBJECTS]
_TRACKERS = [
    {},
    {"k": 1},
    {"user": {"id": "t"}, "event_id": "t-1"},
    {"event_id": "", "user_agent": ""},
    {"user_agent": "curl/7.68.0", "location": {"city": "Own"}, "parsed_ua": {"ua_family": "Own"}},
    {"user": "text", "location": {}},
    "text",
    None,
]
_ADDRESSES = [
    *LOCATIONS,
    f"10.0.0.1, {MOSCOW}, {LONDON}",
    "unknown",
    "0.0.0.0",
    "10.0.0.1",
    "",
    None,
    5,
    0,
    False,
    [LONDON],
    [],
    {"v4": LONDON},
]
_SCREENS = [
    {"width": 1440, "height": 900, "density": 2},
    {"width": 1440.0, "height": 900.5},
    {"width": "390", "height": "844"},
    {"width": 390},
    {"width": 390, "height": None},
    {"width": True, "height": [1]},
    "1440x900",
]
_TIMEZONES = [*ZONES, "Nowhere/Atlantis", "", 60, None]
_MESSAGE_IDS = ["id-1", "id-1", 5, 0, 1.5, True, ["a"], {"k": 1}, 2**64 - 1, "", None]

ROOT: dict[str, list[Any]] = {
    "type": ["track", "page", "identify", "screen", "group", "alias", "Custom", None, 5],
    "messageId": _MESSAGE_IDS,
    "event": ["Signed Up", "größer 😀", None],
    "userId": ["u1", 5, "", None],
    "anonymousId": ["a1", 7, None],
    "traits": _TRAITS,
    "timestamp": ["2021-07-28T08:58:17.127Z", None],
    "originalTimestamp": ["2021-07-28T08:58:16Z"],
    "sentAt": ["2021-07-28T08:58:16.939Z", None],
    "integrations": [{"All": True}, {}, [], None, "text"],
    "groupId": ["g1"],
    "previousId": ["p1"],
    "name": ["Pricing", None],
    "version": [2, 1234567890123456789, 2**64 - 1, -(2**63), 10**29, 0.1],
    "writeKey": ["own-key"],
    "page": ["root page"],
    "os": [{"name": "root"}],
    "device": ["root device"],
    "ip": ["1.2.3.4"],
    "locale": ["xx"],
    "campaign": [{"name": "root"}],
    "userAgent": ["root agent"],
    "location": [{"city": "Root"}, {}, None],
    "user_agent": ["curl/7.68.0", "", 5],
    "source_ip": [LONDON, "", 5],
    "user": [{"id": "root", "email": "r@b.example"}, "text", None],
    "ids": [{"ga": "1"}],
    "doc": [{"path": "/root"}],
    "utm": [{"source": "root"}],
    "parsed_ua": [{"ua_family": "Own"}, {}],
    "page_title": ["Root"],
    "event_type": ["root_type"],
    "eventn_ctx": _TRACKERS,
    "eventn_ctx_event_id": ["c-1", "", None],
    "event_id": ["c-2", 3],
    "_timestamp": ["2020-01-01T00:00:00Z", None],
    "src": ["other"],
    "api_key": ["other"],
    "screen": _SCREENS,
    "timezone": _TIMEZONES,
    "local_tz_offset": [99],
}
CONTEXT: dict[str, list[Any]] = {
    "page": [
        {"title": "T", "referrer": "r", "path": "/p", "url": "https://e.example/p"},
        {"title": "", "path": "/"},
        {"title": None, "referrer": None},
        {},
        "page",
        None,
        ["title"],
    ],
    "traits": _TRAITS,
    "userAgent": _USER_AGENTS,
    "user_agent": _USER_AGENTS[4:],
    "campaign": [{"name": "n", "source": "s"}, {"source": "s"}, {"name": None}, "x", None],
    "location": [{"city": "Own"}, {}, None, "text"],
    "referrer": [{"url": "u", "type": "t"}, {"type": "t"}, {"url": None}, "url", None],
    "os": [
        {"name": "iOS", "version": "17.5"},
        {"name": "", "version": ""},
        {"name": "", "version": "17.5"},
        {"name": None},
        {"build": 1},
        "iOS",
        None,
    ],
    "device": [
        {
            "manufacturer": "Apple",
            "model": "iPhone15,2",
            "version": "12.3.4.5",
            "advertisingId": "ad",
            "id": "d1",
            "name": "Ned's phone",
            "type": "mobile",
            "token": "t",
        },
        {"id": "", "type": ""},
        {"id": "", "type": "mobile"},
        {"id": 5},
        {},
        ["model"],
    ],
    "locale": ["ru-RU", "", None],
    "ip": _ADDRESSES,
    "app": [{"name": "Shop"}],
    "library": [{"name": "analytics.js", "version": "1"}],
    "network": [{"wifi": True}],
    "screen": _SCREENS,
    "timezone": _TIMEZONES,
    "messageId": ["of the context", None],
    "eventn_ctx": _TRACKERS[:3],
    "event": ["of the context"],
    "writeKey": ["of the context"],
    "unknown": [None, [1, {"k": "v"}]],
}
PROPERTIES: dict[str, list[Any]] = {
    "plan": ["Enterprise", None, {"deep": {"page": 1, "ip": 2}}],
    "tweet_id": [1234567890123456789, 2**64 - 1],
    "messageId": ["of a property", None, "", 5, {"k": 1}],
    "event_id": ["of a property", ""],
    "eventn_ctx": _TRACKERS,
    "user_agent": ["curl/7.68.0", "", 5],
    "page": ["p"],
    "traits": [{"k": 1}],
    "userAgent": ["p"],
    "campaign": ["p"],
    "os": ["p"],
    "device": [{"id": "p"}],
    "ip": [LONDON],
    "locale": ["p"],
    "location": ["p", {"city": "P"}],
    "user": [{"p": 1}, "p"],
    "ids": [1],
    "event_type": ["p"],
    "source_ip": [MILTON, 5, None],
    "parsed_ua": [{"p": 1}],
    "doc": ["p"],
    "event": ["of a property"],
    "timestamp": ["of a property"],
    "timezone": ["Asia/Kolkata"],
    "screen": [{"width": 1, "height": 2}],
    "api_key": ["of a property"],
    "writeKey": ["of a property"],
    "_timestamp": ["2019-01-01T00:00:00Z"],
    "context": [{"k": 1}],
    "type": ["of a property"],
    "userId": ["of a property"],
}
_PLACES = {"": ROOT, "context": CONTEXT, "properties": PROPERTIES}

# Header, and the client that it names; the server's own peer is a trusted one.
CLIENTS = [
    ("9.9.9.9", "9.9.9.9"),
    (LONDON, LONDON),
    (f"10.1.2.3, {MOSCOW}, 10.0.0.7", MOSCOW),
    (TOKYO, TOKYO),
    ("5.6.7.8", "5.6.7.8"),
]
REQUEST_AGENTS = [
    b"analytics-go (version: 3.0.0)",
    b"",
    b"caf\xe9/1.0",
    "café/1.0 😀".encode(),
    b"\xff\xfe\x80 mixed \xc3\xa9",
    CHROME.encode(),
]
QUERIES = [
    "",
    "",
    "",
    "ip_policy=strict",
    "cookie_policy=strict",
    "ip_policy=comply&cookie_policy=comply",
    "ip_policy=odd&cookie_policy=keep",
]
PATHS = (FLAT, COMPAT, "/v1/t", f"{COMPAT}/v1/t", f"{COMPAT}/v1/batch", "/v1/batch")
TRACKER_PATHS = ("/api/v1/event", "/api/v1/s2s/event", "/api.x4k2q")
SHARED: list[dict[str, Any]] = [
    {},
    {
        "context": {
            "library": {"name": "of the batch"},
            "ip": LONDON,
            "os": {"name": "", "version": ""},
            "userAgent": IPHONE,
            "timezone": "Asia/Kolkata",
            "traits": {"shared": True},
            "messageId": "of the batch's context",
        },
        "integrations": {"All": False, "Shared": True},
        "sentAt": "2021-01-01T00:00:00Z",
    },
    {
        "context": [],
        "integrations": "text",
        "sentAt": None,
        "messageId": "of the batch",
        "timestamp": "of the batch",
        "sequence": 1,
        "writeKey": "of the batch",
    },
    {"context": {"page": {"title": "T", "referrer": "r"}, "device": {"id": "d"}, "locale": "de"}},
]


@dataclass(frozen=True)
class Post:
    """One request of the corpus; `client` is the address that its header names."""

    name: str
    path: str
    body: Any
    forwarded_for: str
    client: str
    user_agent: bytes
    query: str = ""

    @property
    def events(self) -> list[Any]:
        if isinstance(self.body, list):
            return self.body
        return self.body["batch"] if is_batch(self) else [self.body]


def is_batch(post: Post) -> bool:
    return isinstance(post.body, dict) and "batch" in post.body


def corpus() -> Iterator[Post]:
    """Give the requests, the same ones and in the same order each time."""
    # A fixed seed is the point; nothing here is a secret.
    chance = random.Random(20261123)
    events = dict(_events(chance))
    for number, (name, event) in enumerate(events.items()):
        for path in (PATHS[:2], PATHS[2:4])[number % 4 == 3]:
            yield _post(chance, f"{name} to {path}", path, event)
    for number, batch in enumerate(_batches(list(events.values()))):
        for path in PATHS[number % 2 :: 2]:
            body = SHARED[number % len(SHARED)] | {"batch": batch}
            yield _post(chance, f"batch {number} to {path}", path, body)
        path = TRACKER_PATHS[number % len(TRACKER_PATHS)]
        yield _post(chance, f"array {number} to {path}", path, batch)
    for number, name in enumerate(list(events)[::7]):
        path = TRACKER_PATHS[number % len(TRACKER_PATHS)]
        yield _post(chance, f"{name} to {path}", path, events[name])


def _events(chance: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, parts in _PLACES.items():
        for name, values in parts.items():
            for number, value in enumerate(values):
                event = _drawn(chance)
                holder = event
                if place:
                    holder = event.setdefault(place, {})
                holder[name] = value
                yield f"{place}/{name} {number}", event
    for place in ("context", "properties"):
        for number, value in enumerate(_NON_OBJECTS):
            yield f"{place} {number}", _drawn(chance) | {place: value}


def _drawn(chance: random.Random) -> dict[str, Any]:
    """Return an event with some of all parts, none of them at the same place as in the last."""
    event: dict[str, Any] = {}
    for place, parts in _PLACES.items():
        part = {
            name: chance.choice(values)
            for name, values in parts.items()
            # The root of a real event holds few of the names that are none of its own.
            if chance.random() < (PART_PROBABILITY if place else PART_PROBABILITY / 3)
        }
        if not place:
            event |= part
        elif part:
            event[place] = part
    return event


def _batches(events: list[Any]) -> Iterator[list[Any]]:
    for first in range(0, len(events), BATCH_EVENTS):
        # Items that are no objects are set aside and cost their neighbours nothing.
        yield [*events[first : first + BATCH_EVENTS], 5, None]


def _post(chance: random.Random, name: str, path: str, body: Any) -> Post:
    forwarded_for, client = chance.choice(CLIENTS)
    agent, query = chance.choice(REQUEST_AGENTS), chance.choice(QUERIES)
    return Post(name, path, body, forwarded_for, client, agent, query)
