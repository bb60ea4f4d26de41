"""One whole event, from the bytes of the request to the stored line, in both formats."""

import orjson
import pytest

from segsrv.events.user_agents import UserAgents
from tests.events.corpus import LOCATIONS, Post
from tests.events.event_runs import run_body
from tests.events.oracle import comparable, expected_lines

CHROME = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/91.0.4472.164 Safari/537.36"
)
BODY = b"""
{"anonymousId":"e10d0b70-0a3e-44b5-82ea-43f1372904ee","channel":"client","context":{
"ip":"83.220.56.2","library":{"name":"analytics.js","version":"next-1.28.1"},"locale":"ru-RU",
"page":{"path":"/overview","referrer":"google.com","search":"utm_source=tt","title":"",
"url":"https://jitsu.com/overview?utm_source=tt"},"userAgent":"<UA>"},"event":"Signed Up",
"integrations":{},"messageId":"ajs-next-3e5fa189c9cad87c13a449a8c0a10a33",
"properties":{"plan":"Enterprise"},"sentAt":"2021-07-28T08:58:16.939Z",
"timestamp":"2021-07-28T08:58:17.127Z","type":"track","userId":"f4ca124298","version":2,"apiKey":""}
""".replace(b"<UA>", CHROME.encode())

ROOT = {
    "_timestamp": "2026-11-23T09:00:00.000000Z",
    "api_key": "s2stoken",
    "apiKey": "",
    "channel": "client",
    "event": "Signed Up",
    "event_type": "track",
    "integrations": {},
    "library": {"name": "analytics.js", "version": "next-1.28.1"},
    "plan": "Enterprise",
    "sentAt": "2021-07-28T08:58:16.939Z",
    "source_ip": "83.220.56.2",
    "src": "segment_api",
    "timestamp": "2021-07-28T08:58:17.127Z",
    "version": 2,
}
TRACKER = {
    "doc": {
        "path": "/overview",
        "referrer": "google.com",
        "search": "utm_source=tt",
        "url": "https://jitsu.com/overview?utm_source=tt",
    },
    "ids": {
        "ajs_anonymous_id": "e10d0b70-0a3e-44b5-82ea-43f1372904ee",
        "ajs_user_id": "f4ca124298",
    },
    "page_title": "",
    "referer": "google.com",
    "user": {
        "anonymous_id": "e10d0b70-0a3e-44b5-82ea-43f1372904ee",
        "hashed_anonymous_id": "f56dca73ba080f5ac7a401a7b2c4d3d5",
        "internal_id": "f4ca124298",
    },
    "user_agent": CHROME,
    "user_language": "ru-RU",
}
PARSED_UA = {
    "ua_family": "Chrome",
    "ua_version": "91.0.4472",
    "os_family": "Mac OS X",
    "os_version": "10.15.7",
    "device_family": "Mac",
    "device_brand": "Apple",
    "device_model": "Mac",
}
HASHED_AGENT = b"analytics-go (version: 3.0.0)"
EVENT_ID = "ajs-next-3e5fa189c9cad87c13a449a8c0a10a33"
FLAT = (
    ROOT
    | TRACKER
    | {"user": TRACKER["user"] | {"id": "f4ca124298"}, "eventn_ctx_event_id": EVENT_ID}
)
COMPAT = ROOT | {"eventn_ctx": TRACKER | {"event_id": EVENT_ID}}


def line_of(output, **options):
    outcome = run_body(
        BODY,
        output,
        api_key="s2stoken",
        address="95.82.232.185",
        user_agent="Go-http-client/1.1",
        **options,
    )
    (line,) = outcome.lines
    assert outcome.types == {"track": 1}
    assert not outcome.dead_letters
    assert not outcome.delete_cookie
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    return orjson.loads(line)


def test_the_oracle_agrees():
    """The oracle of the corpus, which is code too, makes of this request the lines given here."""
    located = {"parsed_ua": PARSED_UA, "location": LOCATIONS["83.220.56.2"]}
    for path, expected in (
        ("/api/v1/segment", FLAT | located),
        ("/api/v1/segment/compat", COMPAT | {"eventn_ctx": COMPAT["eventn_ctx"] | located}),
    ):
        address = "95.82.232.185"
        post = Post("pair", path, orjson.loads(BODY), address, address, b"Go-http-client/1.1")
        (line,) = expected_lines(post, "s2stoken")
        assert comparable(line) == comparable(expected)


def test_the_oracle_agrees_on_the_hash():
    """The oracle hashes the address and the request's user agent to the value that is known."""
    post = Post("hash", "/api/v1/segment", {"userId": "u"}, "", "1.1.1.1", HASHED_AGENT)
    (line,) = expected_lines(post, "key")
    assert line["user"]["hashed_anonymous_id"] == "fae67b1cccc98d3e7e1f722238568662"


@pytest.mark.parametrize(("output", "expected"), [("flat", FLAT), ("compat", COMPAT)])
class TestWorkedPair:
    def test_without_enrichment(self, output, expected):
        """The stored line is this one, with the address that the event itself carries."""
        assert line_of(output) == expected

    def test_with_the_user_agent_parsed(self, output, expected):
        """Parsing the user agent adds `parsed_ua` and nothing else."""
        if output == "flat":
            expected = expected | {"parsed_ua": PARSED_UA}
        else:
            expected = expected | {"eventn_ctx": expected["eventn_ctx"] | {"parsed_ua": PARSED_UA}}
        assert line_of(output, parse_user_agent=UserAgents(entries_max=8).parse) == expected
