"""Segment's own shape: nothing that was sent moves, and what is found out is added beside it."""

import copy
import re
from hashlib import md5

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segsrv.events.user_agents import UserAgents
from tests.events.event_runs import TIMESTAMP, UUID4, run_body, store, store_batch
from tests.events.event_strategies import CONTEXTS, EVENTS

IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/16.5 Mobile/15E148 Safari/604.1"
)
parse_user_agent = UserAgents(entries_max=100).parse
# What the server says itself of every event, or completes.
ADDED = {"messageId", "receivedAt", "timestamp", "originalTimestamp", "writeKey", "context"}
ADDED_TO_CONTEXT = {"ip", "location", "parsedUserAgent"}


def locate(source):
    """Stand for a database that knows two addresses."""
    country = {"8.8.8.8": "US", "81.2.69.142": "GB"}.get(source)
    return {"country": country, "city": "C"} if country else None


def stored_as(event, **options):
    return store(event, "segment", parse_user_agent=parse_user_agent, locate=locate, **options)


def without(holder, names):
    return {name: value for name, value in holder.items() if name not in names}


@given(event=EVENTS, address=st.sampled_from(["", "8.8.8.8"]), is_client=st.booleans())
def test_what_was_sent_stays_where_it_was(event, address, is_client):
    """Beyond what the server adds, an event is stored as it came, its order included."""
    sent = copy.deepcopy(event)
    stored = stored_as(event, address=address, is_client=is_client)
    kept = without(stored, ADDED | {"context_raw"})
    assert list(kept.items()) == list(without(sent, ADDED).items())
    context = sent.get("context")
    if isinstance(context, dict):
        of_context = without(stored["context"], ADDED_TO_CONTEXT)
        assert of_context == without(context, ADDED_TO_CONTEXT)
        for name in ("location", "parsedUserAgent"):
            if context.get(name):
                assert stored["context"][name] == context[name]
    elif context:
        assert stored["context_raw"] == context


def test_properties_stand_for_nothing_else():
    """Whatever a customer calls a property, it overwrites no field of the event."""
    names = ("userId", "timestamp", "receivedAt", "messageId", "context", "writeKey", "type", "ip")
    properties = dict.fromkeys(names, "mine")
    stored = stored_as(
        {"type": "track", "userId": "u", "messageId": "m", "properties": properties},
        address="8.8.8.8",
    )
    assert stored == {
        "type": "track",
        "userId": "u",
        "messageId": "m",
        "properties": properties,
        "writeKey": "key",
        "context": {"ip": "8.8.8.8", "location": {"country": "US", "city": "C"}},
        "receivedAt": TIMESTAMP,
        "timestamp": TIMESTAMP,
    }


class TestIds:
    def test_an_id_is_made_where_there_is_none(self):
        """An event without `messageId`, or with an empty one, gets one of the server's."""
        for event in ({}, {"messageId": None}, {"messageId": ""}):
            outcome = run_body({"type": "track", **event}, "segment")
            (line,) = outcome.lines
            assert re.fullmatch(UUID4, orjson.loads(line)["messageId"])
            assert outcome.ids == [orjson.loads(line)["messageId"]]

    @pytest.mark.parametrize(("sent", "kept"), [("m", "m"), (7, "7"), ({"a": 1}, '{"a":1}')])
    def test_an_id_that_is_no_text_becomes_one(self, sent, kept):
        """A `messageId` of another type is stored as its JSON, as in the other formats."""
        assert stored_as({"messageId": sent})["messageId"] == kept

    @pytest.mark.parametrize("stored_key", ["secret", None])
    def test_the_key_is_stored_as_the_settings_say(self, stored_key):
        """What the body says of the key is not stored, only what the server knows of it."""
        stored = stored_as({"type": "track", "writeKey": "of the body"}, api_key=stored_key)
        assert stored.get("writeKey") == stored_key


class TestTimes:
    """`timestamp = receivedAt - (sentAt - originalTimestamp)`; it is 09:00:00 when events come."""

    @pytest.mark.parametrize(
        ("sent", "timestamp", "original"),
        [
            ({}, TIMESTAMP, None),
            ({"timestamp": "2026-11-23T07:00:00Z"}, "2026-11-23T07:00:00Z", "2026-11-23T07:00:00Z"),
            (
                {"timestamp": "2026-11-23T07:00:00Z", "sentAt": "2026-11-23T07:00:30Z"},
                "2026-11-23T08:59:30.000000Z",
                "2026-11-23T07:00:00Z",
            ),
            # RudderStack's SDKs send this name alone.
            (
                {"originalTimestamp": "2026-11-23T07:00:00Z", "sentAt": "2026-11-23T07:00:30Z"},
                "2026-11-23T08:59:30.000000Z",
                "2026-11-23T07:00:00Z",
            ),
            (
                {
                    "originalTimestamp": "2026-11-23T07:00:00Z",
                    "timestamp": "2026-11-23T08:00:00Z",
                    "sentAt": "2026-11-23T07:00:30Z",
                },
                "2026-11-23T08:59:30.000000Z",
                "2026-11-23T07:00:00Z",
            ),
            ({"timestamp": 5, "sentAt": "2026-11-23T07:00:30Z"}, 5, 5),
            (
                {"timestamp": "0001-01-01T00:00:00Z", "sentAt": "9999-12-31T23:59:59Z"},
                "0001-01-01T00:00:00Z",
                "0001-01-01T00:00:00Z",
            ),
        ],
        ids=["none", "timestamp", "both", "original", "all", "number", "out of range"],
    )
    def test_timestamp(self, sent, timestamp, original):
        """The sender's clock falls out where both of its stamps can be read."""
        stored = stored_as(sent | {"type": "track"})
        assert stored["timestamp"] == timestamp
        assert stored.get("originalTimestamp") == original
        assert stored.get("sentAt") == sent.get("sentAt")

    def test_received_at_is_the_servers(self):
        """A client's own `receivedAt` does not count."""
        assert stored_as({"receivedAt": "1999-01-01T00:00:00Z"})["receivedAt"] == TIMESTAMP


class TestContext:
    def test_the_address_and_what_it_says(self):
        """A client's address is stored, and looked up; a server's event may name another."""
        event = {"context": {"ip": "81.2.69.142"}}
        for is_client, ip, country in ((True, "8.8.8.8", "US"), (False, "81.2.69.142", "GB")):
            context = stored_as(copy.deepcopy(event), address="8.8.8.8", is_client=is_client)
            assert context["context"]["ip"] == ip
            assert context["context"]["location"]["country"] == country

    def test_an_address_that_is_not_to_be_known(self):
        """A page that sends 0.0.0.0 has no address stored, and none looked up."""
        stored = stored_as({"context": {"ip": "0.0.0.0"}}, address="8.8.8.8", is_client=True)
        assert stored["context"] == {"ip": "0.0.0.0"}

    def test_the_user_agent(self):
        """The user agent is parsed beside what the SDK says of system and device."""
        sent = {"userAgent": IPHONE, "os": {"name": "iOS"}, "device": {"type": "ios"}}
        context = stored_as({"context": copy.deepcopy(sent)})["context"]
        assert context.pop("parsedUserAgent")["os_version"] == "16.5"
        assert context == sent

    def test_of_a_batch(self):
        """Each event of a batch has its context, and what is added to one is in no other."""
        body = {
            "batch": [{"context": {"ip": "8.8.8.8"}}, {"context": {"ip": "81.2.69.142"}}, {}],
            "context": {"library": {"name": "x"}, "userAgent": IPHONE},
            "sentAt": "2026-11-23T09:00:00Z",
        }
        stored = store_batch(body, "segment", locate=locate, parse_user_agent=parse_user_agent)
        assert [event["context"].get("location", {}).get("country") for event in stored] == [
            "US",
            "GB",
            None,
        ]
        for event in stored:
            assert event["context"]["library"] == {"name": "x"}
            assert event["context"]["parsedUserAgent"]["ua_family"] == "Mobile Safari"
            assert event["sentAt"] == "2026-11-23T09:00:00Z"

    @given(CONTEXTS, st.lists(EVENTS, max_size=3))
    def test_a_batch_is_its_events_one_by_one(self, context, events):
        """What an event of a batch is stored as depends on no other event of it."""
        for number, event in enumerate(events):
            event["messageId"] = str(number)
        body = {"batch": events, "context": context}
        together = store_batch(body, "segment", address="8.8.8.8", locate=locate)
        alone = [
            store_batch({**body, "batch": [event]}, "segment", address="8.8.8.8", locate=locate)
            for event in events
        ]
        assert together == [event for stored in alone for event in stored]


class TestPrivacy:
    def test_the_address_is_shortened(self):
        """With a strict policy the address loses its last part, after it was looked up."""
        stored = stored_as({"type": "track"}, address="8.8.8.8", ip_policy="strict")
        assert stored["context"] == {"ip": "8.8.8.1", "location": {"country": "US", "city": "C"}}

    def test_an_address_at_the_root(self):
        """Some SDKs send it there too; a strict policy leaves none of it."""
        event = {"type": "track", "ip": "8.8.8.8", "request_ip": "8.8.8.8"}
        stored = stored_as(dict(event), address="8.8.8.8", ip_policy="strict")
        assert "8.8.8.8" not in str(stored)
        assert stored_as(dict(event), address="8.8.8.8")["ip"] == "8.8.8.8"

    @pytest.mark.parametrize("odd", [["8.8.8.8"], {"a": "8.8.8.8"}, 8])
    def test_what_is_no_text_is_not_stored(self, odd):
        """An address that can't be shortened does not stay."""
        stored = stored_as({"context": {"ip": odd}}, ip_policy="strict")
        assert stored["context"] == {}

    @pytest.mark.parametrize(("address", "is_strict"), [("8.8.8.8", False), ("81.2.69.142", True)])
    def test_the_anonymous_id(self, address, is_strict):
        """Where consent is asked for, a hash of address and browser is in the id's place."""
        event = {
            "anonymousId": "cookie",
            "traits": {"anonymousId": "cookie"},
            "context": {"traits": {"anonymousId": "cookie", "email": "e"}},
        }
        options = {"address": address, "user_agent": "UA", "cookie_policy": "comply"}
        outcome = run_body(event, "segment", locate=locate, **options)
        stored = stored_as(event, **options)
        hashed = md5((address + "UA").encode(), usedforsecurity=False).hexdigest()
        expected = hashed if is_strict else "cookie"
        assert stored["anonymousId"] == stored["traits"]["anonymousId"] == expected
        assert stored["context"]["traits"] == {"anonymousId": expected, "email": "e"}
        assert outcome.delete_cookie == is_strict

    def test_no_letter_gives_an_address_away(self):
        """An event that can't be stored leaves a letter without the address that was to go."""
        deep = b"[" * 300 + b"]" * 300
        body = b'{"batch":[{"context":{"ip":"81.2.69.142"},"messageId":{"x":' + deep + b"}}]}"
        outcome = run_body(body, "segment", ip_policy="strict", locate=locate)
        assert outcome.reasons == {"nested_too_deeply": 1}
        assert b"81.2.69.142" not in b"".join(outcome.dead_letters)


def test_what_can_not_be_stored_costs_its_neighbours_nothing():
    """Items that are no object or too large are set aside, and the others are stored."""
    body = {"batch": [{"event": "a"}, 7, {"event": "x" * 3_000}, {"event": "b"}]}
    outcome = run_body(body, "segment", event_bytes_max=2_000)
    assert [orjson.loads(line)["event"] for line in outcome.lines] == ["a", "b"]
    assert outcome.reasons == {"not_an_object": 1, "event_too_large": 1}


def test_types_are_counted():
    """The types of the six calls are told apart; any other counts as `other`."""
    body = {"batch": [{"type": "track"}, {"type": "screen"}, {"type": "x"}, {"type": 1}, {}]}
    outcome = run_body(body, "segment", event_type="page")
    assert outcome.kinds == ["track", "screen", "other", "other", "page"]
