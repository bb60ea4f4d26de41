"""The steps after the mapping: zone, screen, event id, address, stamps and the hash."""

import re
from datetime import UTC, datetime
from hashlib import md5

import pytest

from tests.events.event_runs import NOW, TIMESTAMP, UUID4, body_of, run_body, store

SUMMER = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
OUTPUTS = ("flat", "compat")
both_formats = pytest.mark.parametrize("output", OUTPUTS)


def tracked(output, **fields):
    """Return *fields* where the format keeps the tracker's own."""
    return fields if output == "flat" else {"eventn_ctx": fields}


@both_formats
class TestTimezone:
    @pytest.mark.parametrize(
        ("zone", "now", "offset"),
        [
            ("Etc/UTC", NOW, 0),
            ("Asia/Kolkata", NOW, 330),
            ("America/St_Johns", NOW, -210),
            ("Europe/Berlin", NOW, 60),
            ("Europe/Berlin", SUMMER, 120),
            ("Asia/Kathmandu", SUMMER, 345),
            ("Africa/Monrovia", datetime(1971, 1, 1, tzinfo=UTC), -44.5),
        ],
    )
    def test_known_zone(self, output, zone, now, offset):
        """A known zone becomes its offset at that moment, a whole number where it is whole."""
        event = {"context": {"timezone": zone}, "_timestamp": TIMESTAMP}
        stored = body_of(store(event, output, now=now))
        assert repr(stored) == repr(tracked(output, local_tz_offset=offset))

    @pytest.mark.parametrize(
        "zone",
        [
            *("Nowhere/Atlantis", "", "Europe", "../../etc/passwd", "/etc/localtime", "a\0b"),
            *("x" * 999, "__init__/x", "America/__init__/x", "\ud800", ".", "Europe/"),
        ],
    )
    def test_unknown_zone(self, output, zone):
        """An unknown zone is taken off, and nothing is stored for it."""
        assert body_of(store({"context": {"timezone": zone}, "k": 1}, output)) == {"k": 1}

    @pytest.mark.parametrize("zone", [None, 60, ["Etc/UTC"], {"name": "Etc/UTC"}], ids=repr)
    def test_zone_that_is_no_text(self, output, zone):
        """What is no text is no zone, and is taken off too."""
        assert body_of(store({"context": {"timezone": zone}, "k": 1}, output)) == {"k": 1}

    def test_place(self, output):
        """The offset is stored where the format keeps the tracker's fields."""
        stored = store({"timezone": "Asia/Kolkata", "eventn_ctx": {"k": 1}}, output)
        if output == "flat":
            assert body_of(stored) == {"local_tz_offset": 330, "eventn_ctx": {"k": 1}}
        else:
            assert body_of(stored) == {"eventn_ctx": {"k": 1, "local_tz_offset": 330}}

    def test_tracker_that_is_no_object(self, output):
        """An `eventn_ctx` that is no object is left alone, and the root takes its place."""
        stored = store({"timezone": "Asia/Kolkata", "eventn_ctx": "text"}, output)
        assert body_of(stored) == {"local_tz_offset": 330, "eventn_ctx": "text"}


@both_formats
class TestScreen:
    @pytest.mark.parametrize(
        ("width", "height", "resolution"),
        [
            (1440, 900, "1440x900"),
            (1440.0, 900.0, "1440x900"),
            (1440.5, 900, "1440.5x900"),
            ("1440", "900", "1440x900"),
            (0, 0, "0x0"),
        ],
    )
    def test_both_sizes(self, output, width, height, resolution):
        """A screen with both sizes becomes a text, whatever else it holds, and leaves the root."""
        screen = {"width": width, "height": height, "density": 2}
        stored = store({"context": {"screen": screen}}, output)
        assert body_of(stored) == tracked(output, screen_resolution=resolution)

    @pytest.mark.parametrize(
        "screen",
        [
            {"width": 1},
            {"height": 1},
            {"width": 1, "height": None},
            {"width": None, "height": 1},
            {"width": [1], "height": 1},
            {"width": 1, "height": {"px": 1}},
            {"width": True, "height": 1},
            {},
            "1440x900",
            [1440, 900],
            None,
        ],
        ids=repr,
    )
    def test_otherwise_it_stays(self, output, screen):
        """Without both sizes the screen stays as it is."""
        assert body_of(store({"context": {"screen": screen}}, output)) == {"screen": screen}

    def test_place(self, output):
        """The resolution joins the tracker's other fields."""
        event = {"context": {"screen": {"width": 1, "height": 2}, "locale": "de"}}
        stored = body_of(store(event, output))
        assert stored == tracked(output, screen_resolution="1x2", user_language="de")


class TestEventId:
    @pytest.mark.parametrize(
        ("message_id", "event_id"),
        [("m-1", "m-1"), (5, "5"), (0, "0"), (1.5, "1.5"), (True, "true"), (["a"], '["a"]')],
        ids=repr,
    )
    def test_message_id(self, message_id, event_id):
        """The message id becomes the event id, as text, and is removed."""
        event = {"messageId": message_id, "userId": "u"}
        flat, compat = store(event), store(event, "compat")
        assert flat["eventn_ctx_event_id"] == event_id
        assert "eventn_ctx" not in flat
        assert compat["eventn_ctx"]["event_id"] == event_id
        assert "eventn_ctx_event_id" not in compat
        assert "messageId" not in flat | compat

    @both_formats
    def test_root_without_a_tracker_object(self, output):
        """Where there is no `eventn_ctx` object, the id goes to the root in both formats."""
        assert store({"messageId": "m"}, output)["eventn_ctx_event_id"] == "m"
        stored = store({"messageId": "m", "eventn_ctx": [1]}, output)
        assert (stored["eventn_ctx"], stored["eventn_ctx_event_id"]) == ([1], "m")

    @both_formats
    def test_tracker_object_of_the_event(self, output):
        """Where the event brings an `eventn_ctx` object, the id goes into that in both formats."""
        stored = store({"messageId": "m", "eventn_ctx": {"event_id": "old", "k": 1}}, output)
        assert stored["eventn_ctx"] == {"event_id": "m", "k": 1}
        assert "eventn_ctx_event_id" not in stored

    @pytest.mark.parametrize(
        "field", [{"timezone": "Etc/UTC"}, {"screen": {"width": 1, "height": 2}}]
    )
    def test_tracker_object_made_by_an_earlier_step(self, field):
        """The object that the zone or the screen made in compat takes the id."""
        stored = store({"messageId": "m", **field}, "compat")
        assert stored["eventn_ctx"]["event_id"] == "m"
        assert "eventn_ctx_event_id" not in stored

    @both_formats
    @pytest.mark.parametrize("missing", [{}, {"messageId": None}, {"messageId": ""}], ids=repr)
    def test_made(self, output, missing):
        """Without any id a UUID4 is made, another one for each event; a null one is missing."""
        first, second = (store(missing, output)["eventn_ctx_event_id"] for _ in range(2))
        assert re.fullmatch(UUID4, first)
        assert re.fullmatch(UUID4, second)
        assert first != second
        assert "messageId" not in store(missing, output)

    @both_formats
    @pytest.mark.parametrize("missing", [{}, {"messageId": None}], ids=repr)
    def test_carried(self, output, missing):
        """Without a message id, an id that the event carries is moved, the tracker's own first."""
        carried = {"eventn_ctx": {"event_id": "1"}, "eventn_ctx_event_id": "2", "event_id": "3"}
        stored = store(carried | missing, output)
        assert stored["eventn_ctx"] == {"event_id": "1"}
        assert (stored["eventn_ctx_event_id"], stored["event_id"]) == ("2", "3")

        stored = store({"eventn_ctx_event_id": "2", "event_id": "3"} | missing, output)
        assert (stored["eventn_ctx_event_id"], stored["event_id"]) == ("2", "3")

        stored = store({"event_id": 3} | missing, output)
        assert stored["eventn_ctx_event_id"] == "3"
        assert "event_id" not in stored

    @both_formats
    @pytest.mark.parametrize("name", ["eventn_ctx_event_id", "event_id"])
    def test_carried_into_the_tracker_object(self, output, name):
        """A carried id moves into the `eventn_ctx` object, past one that is null or empty there."""
        for nothing in ({}, {"event_id": None}, {"event_id": ""}):
            stored = store({"eventn_ctx": nothing | {"k": 1}, name: "c"}, output)
            assert stored["eventn_ctx"] == {"event_id": "c", "k": 1}
            assert name not in stored

    @both_formats
    def test_message_id_before_carried_ids(self, output):
        """A message id wins over a carried one, which then stays where it was."""
        stored = store({"messageId": "m", "event_id": "c"}, output)
        assert (stored["eventn_ctx_event_id"], stored["event_id"]) == ("m", "c")

    @both_formats
    def test_a_property_is_a_carried_id(self, output):
        """What flattening brings to the root counts: a property's `event_id` is a carried one."""
        assert store({"properties": {"event_id": "p"}}, output)["eventn_ctx_event_id"] == "p"

    @both_formats
    @pytest.mark.parametrize("value", ["p", None, "", 5, {"k": 1}], ids=repr)
    @pytest.mark.parametrize("holder", ["properties", "context"])
    def test_a_property_called_message_id(self, output, holder, value):
        """A property `messageId` stays one, and neither replaces the event's id nor loses it."""
        stored = store({"messageId": "own", holder: {"messageId": value}}, output)
        assert (stored["eventn_ctx_event_id"], stored["messageId"]) == ("own", value)

        stored = store({holder: {"messageId": value}}, output)
        assert re.fullmatch(UUID4, stored["eventn_ctx_event_id"])
        assert stored["messageId"] == value

        stored = store({"event_id": "c", holder: {"messageId": value}}, output)
        assert (stored["eventn_ctx_event_id"], stored["messageId"]) == ("c", value)


@both_formats
class TestStamps:
    def test_address(self, output):
        """The client's address is stored only if the event carries none."""
        assert store({}, output, address="9.9.9.9")["source_ip"] == "9.9.9.9"
        for empty in (None, ""):
            assert store({"source_ip": empty}, output, address="9.9.9.9")["source_ip"] == "9.9.9.9"
        for event in ({"source_ip": "1.1.1.1"}, {"context": {"ip": "1.1.1.1"}}):
            assert store(event, output, address="9.9.9.9")["source_ip"] == "1.1.1.1"
        assert "source_ip" not in store({}, output, address="")

    @pytest.mark.parametrize("address", [5, 0, False, ["1.1.1.1"], [], {"v4": "1.1.1.1"}], ids=repr)
    def test_address_that_is_no_text(self, output, address):
        """An address that is no text is stored as it came, and the client's doesn't replace it."""
        stored = store({"context": {"ip": address}}, output, address="9.9.9.9")
        assert repr(stored["source_ip"]) == repr(address)

    def test_source_and_key(self, output):
        """`src` and `api_key` replace what the event says; the key in its body is not stored."""
        event = {
            "src": "other",
            "api_key": "other",
            "writeKey": "secret",
            "context": {"writeKey": "secret"},
            "properties": {"writeKey": "secret"},
        }
        stored = store(event, output, api_key="accepted")
        assert (stored["src"], stored["api_key"]) == ("segment_api", "accepted")
        assert "writeKey" not in stored

    def test_without_a_key(self, output):
        """Where no key is to be stored, none is, not even one that the event holds."""
        assert "api_key" not in store({}, output, api_key=None)
        assert "api_key" not in store({"api_key": "secret"}, output, api_key=None)

    def test_events_of_the_users_own_device(self, output):
        """An event from the user's device takes the client's address, whatever it says itself."""
        device = {"address": "9.9.9.9", "is_client": True}
        for event in ({}, {"context": {"ip": "1.1.1.1"}}, {"source_ip": ["1.1.1.1"]}):
            assert store(event, output, **device)["source_ip"] == "9.9.9.9"

    @pytest.mark.parametrize("address", ["0.0.0.0", "::"])
    def test_withheld_address(self, output, address):
        """An event that names no host as its address keeps the client's from being stored."""
        event = {"context": {"ip": address}}
        stored = store(event, output, address="9.9.9.9", is_client=True)
        assert stored["source_ip"] == address

    def test_timestamp(self, output):
        """The server's time is stored in UTC with microseconds, unless the event has one."""
        assert store({}, output)["_timestamp"] == TIMESTAMP
        now = datetime(2026, 1, 2, 3, 4, 5, 67, tzinfo=UTC)
        assert store({}, output, now=now)["_timestamp"] == "2026-01-02T03:04:05.000067Z"
        assert store({"_timestamp": "own"}, output)["_timestamp"] == "own"
        assert store({"_timestamp": None}, output)["_timestamp"] == TIMESTAMP

    def test_timestamp_of_the_clock(self, output):
        """Where no time is given, the server's clock is read."""
        before = datetime.now(UTC)
        stored = store({}, output, now=None)["_timestamp"]
        assert before <= datetime.fromisoformat(stored) <= datetime.now(UTC)

    def test_event_type_of_the_path(self, output):
        """The type that the path names is stored for events without one, and only for those."""
        for event in ({}, {"type": None}):
            assert store(event, output, event_type="track")["event_type"] == "track"
        assert store({"type": "page"}, output, event_type="track")["event_type"] == "page"
        assert "event_type" not in store({}, output)

    def test_flat_event_passes_through(self, output):
        """An event that is flat already keeps its fields, and gets the steps of any other."""
        event = {
            "event_type": "pageview",
            "event_id": "e",
            "source_ip": "1.1.1.1",
            "user": {"anonymous_id": "a", "id": "u"},
            "ids": {"ga": "g"},
            "doc": {"path": "/"},
            "utm": {"source": "s"},
            "page_title": "T",
            "referer": "r",
            "parsed_ua": {"ua_family": "F"},
            "user_language": "de",
            "local_tz_offset": 60,
            "screen_resolution": "1x2",
        }
        stored = store(event, output, user_agent=REQUEST["user_agent"])
        assert stored.pop("eventn_ctx_event_id") == event.pop("event_id")
        event["user"]["hashed_anonymous_id"] = CHECK
        assert body_of(stored) == event


CHECK = "fae67b1cccc98d3e7e1f722238568662"
REQUEST = {"address": "1.1.1.1", "user_agent": "analytics-go (version: 3.0.0)"}


class TestHash:
    def test_check_value(self):
        """The hash is the md5 of the address followed by the request's user agent."""
        assert store({"userId": "u"}, **REQUEST)["user"]["hashed_anonymous_id"] == CHECK
        compat = store({"userId": "u"}, "compat", **REQUEST)
        assert compat["eventn_ctx"]["user"]["hashed_anonymous_id"] == CHECK

    @both_formats
    def test_the_events_own_address_counts(self, output):
        """The address is the one that is stored; the user agent is that of the request."""
        event = {"user": {}, "context": {"ip": "1.1.1.1", "userAgent": "other"}}
        stored = store(event, output, **REQUEST | {"address": "9.9.9.9"})
        assert stored["user"] == {"hashed_anonymous_id": CHECK}

    @both_formats
    def test_without_an_address(self, output):
        """Without any address the hash is made of the user agent alone."""
        stored = store({"user": {}}, output, user_agent="curl/7.68.0")
        assert stored["user"] == {"hashed_anonymous_id": "fd4a0a8696c9f02d5c00ddd6c92d5485"}

    @both_formats
    def test_address_that_is_no_text(self, output):
        """Where the event's address is no text, the client's is hashed."""
        stored = store({"user": {}, "source_ip": ["9.9.9.9"]}, output, **REQUEST)
        assert stored["user"] == {"hashed_anonymous_id": CHECK}

    @both_formats
    @pytest.mark.parametrize(
        ("header", "sent"),
        [("caf\udce9", b"caf\xe9"), ("café", b"caf\xc3\xa9"), ("\udcc3é", b"\xc3\xc3\xa9")],
    )
    def test_header_outside_of_ascii(self, output, header, sent):
        """Bytes of the header that are not ASCII are hashed as they were sent."""
        stored = store({"user": {}}, output, address="1.1.1.1", user_agent=header)
        hashed = md5(b"1.1.1.1" + sent, usedforsecurity=False).hexdigest()
        assert stored["user"] == {"hashed_anonymous_id": hashed}

    @both_formats
    def test_into_the_trackers_user(self, output):
        """The hash goes into `eventn_ctx.user` where that is an object, and not into `user`."""
        stored = store({"eventn_ctx": {"user": {}}, "user": {}}, output, **REQUEST)
        assert stored["eventn_ctx"]["user"] == {"hashed_anonymous_id": CHECK}
        assert stored["user"] == {}

    @both_formats
    @pytest.mark.parametrize("tracker", [{}, {"user": "text"}, {"user": None}, "text"], ids=repr)
    def test_else_into_the_roots_user(self, output, tracker):
        """Where `eventn_ctx` has no user object, the hash goes into the root's."""
        stored = store({"eventn_ctx": tracker, "user": {"id": 1}}, output, **REQUEST)
        assert stored["user"] == {"id": 1, "hashed_anonymous_id": CHECK}
        if isinstance(tracker, dict) and "user" in tracker:
            assert stored["eventn_ctx"]["user"] == tracker["user"]

    @both_formats
    @pytest.mark.parametrize("event", [{}, {"user": "text"}, {"user": None}], ids=repr)
    def test_else_nowhere(self, output, event):
        """Without a user object there is no place for the hash, and none is made."""
        assert b"hashed_anonymous_id" not in run_body(event, output, **REQUEST).lines[0]
