"""What a batch shares, what its events do not, and what becomes of items that can't be stored."""

import ctypes
import json

import orjson
import pytest

from segsrv.errors import BadRequest
from segsrv.events import EVENT_TYPES
from tests.events.event_runs import TIMESTAMP, body_of, run_body, store_batch

both_formats = pytest.mark.parametrize("output", ["flat", "compat"])


def nested(depth):
    """Return the text of arrays within arrays."""
    return b"[" * depth + b"]" * depth


def bodies_of(body, output, **options):
    return [body_of(event) for event in store_batch(body, output, **options)]


@both_formats
class TestBatchFields:
    def test_context_under_each_events_own(self, output):
        """The batch's context fills in what an event's own does not say, name by name."""
        body = {
            "batch": [
                {"context": {"library": {"name": "own"}, "app": 1}},
                {"context": {}},
                {},
                {"context": None},
                {"context": []},
                {"context": ""},
            ],
            "context": {"library": {"name": "batch", "version": "1"}, "network": 2},
        }
        shared = body["context"]
        assert bodies_of(body, output) == [
            {"library": {"name": "own"}, "app": 1, "network": 2},
            *[shared] * 5,
        ]

    def test_context_is_mapped(self, output):
        """The batch's context goes through the same rules as an event's own."""
        body = {
            "batch": [{"anonymousId": "a"}, {"context": {"ip": "1.1.1.1"}}],
            "context": {"locale": "de", "ip": "2.2.2.2", "traits": {"k": 1}},
        }
        first, second = (event.get("eventn_ctx", event) for event in bodies_of(body, output))
        assert first["user_language"] == second["user_language"] == "de"
        assert first["user"].items() >= {"k": 1, "anonymous_id": "a"}.items()
        assert "anonymous_id" not in second["user"]
        assert [event["source_ip"] for event in store_batch(body, output)] == ["2.2.2.2", "1.1.1.1"]

    @pytest.mark.parametrize("own", ["text", 0, False, 1.5, [1]], ids=repr)
    def test_context_that_is_no_object(self, output, own):
        """An event's context that is no object is kept aside, and the batch's one is in force."""
        body = {"batch": [{"context": own}], "context": {"library": 1}}
        assert bodies_of(body, output) == [{"context_raw": own, "library": 1}]

    def test_integrations_under_each_events_own(self, output):
        """The batch's integrations fill in what an event's own do not say."""
        body = {
            "batch": [
                {"integrations": {"All": False, "A": 1}},
                {},
                {"integrations": None},
                {"integrations": []},
                {"integrations": "text"},
            ],
            "integrations": {"All": True, "B": 2},
        }
        shared = body["integrations"]
        assert [event["integrations"] for event in bodies_of(body, output)] == [
            {"All": False, "A": 1, "B": 2},
            shared,
            shared,
            shared,
            "text",
        ]

    def test_sent_at(self, output):
        """The batch's `sentAt` goes to events without one."""
        body = {"batch": [{"sentAt": "own"}, {}, {"sentAt": None}], "sentAt": "batch"}
        assert [event["sentAt"] for event in bodies_of(body, output)] == ["own", "batch", "batch"]
        assert bodies_of({"batch": [{}], "sentAt": None}, output) == [{}]

    def test_fields_that_are_not_the_events(self, output):
        """The batch's id, time, sequence and key, and whatever else it holds, are not stored."""
        body = {
            "batch": [{"k": 1, "writeKey": "i"}],
            "messageId": "m",
            "timestamp": "t",
            "sequence": 1,
            "writeKey": "w",
            "unknown": 1,
        }
        (line,) = run_body(body, output).lines
        assert body_of(orjson.loads(line)) == {"k": 1}
        assert b'"m"' not in line

    def test_without_batch_fields(self, output):
        """A batch that says nothing for all adds nothing."""
        assert bodies_of({"batch": [{"k": 1}]}, output) == [{"k": 1}]

    def test_single_event_keeps_its_own(self, output):
        """A single event's context and integrations are its own, and nothing is merged."""
        event = {"integrations": {"All": True}, "context": {"app": 1}, "sentAt": "s"}
        assert bodies_of(event, output) == [
            {"integrations": {"All": True}, "app": 1, "sentAt": "s"}
        ]


SHARED_CONTEXT = {
    "page": {"title": "T", "referrer": "p"},
    "campaign": {"name": "n"},
    "referrer": {"url": "r", "type": "t"},
    "traits": {"k": 1},
    "os": {"name": "o"},
    "device": {"id": "d"},
    "screen": {"width": 1, "height": 2},
    "timezone": "Etc/UTC",
    "locale": "de",
    "userAgent": "UA",
}


@both_formats
class TestEventsStandAlone:
    def test_shared_context(self, output):
        """Events that share a batch's context are stored as if each had brought it alone."""
        items = [{"messageId": "1", "userId": "u"}, {"messageId": "2", "anonymousId": "a"}] * 2
        together = run_body({"batch": items, "context": SHARED_CONTEXT}, output).lines
        alone = [
            run_body({"batch": [item], "context": SHARED_CONTEXT}, output).lines[0]
            for item in items
        ]
        assert together == alone

    def test_shared_objects_deep_in_the_context(self, output):
        """A user that lies deeper in the batch's context is not shared either."""
        shared = {"eventn_ctx": {"user": {"anonymous_id": "a"}}, "user": {"anonymous_id": "b"}}
        items = [{"source_ip": "5.5.5.5"}, {"source_ip": "8.8.8.8"}]
        first, second = store_batch(
            {"batch": items, "context": shared},
            output,
            locate=lambda source: {"country": "DE" if source == "5.5.5.5" else "US"},
            cookie_policy="comply",
        )
        assert first["eventn_ctx"]["user"]["anonymous_id"] != "a"
        assert second["eventn_ctx"]["user"]["anonymous_id"] == "a"

    def test_ids_and_addresses(self, output):
        """The address and the id of one event are never another one's."""
        items = [{"context": {"ip": "1.1.1.1"}, "messageId": "m"}, {}, {}]
        stored = store_batch({"batch": items}, output, address="9.9.9.9")
        assert [event["source_ip"] for event in stored] == ["1.1.1.1", "9.9.9.9", "9.9.9.9"]
        assert len({event["eventn_ctx_event_id"] for event in stored}) == 3

    @pytest.mark.parametrize("bad", [b"1", b"null", b"[{}]", b'"{}"', b"true", nested(900)])
    def test_bad_neighbours(self, output, bad):
        """An item that is no object is set aside; those beside it are stored, in their order."""
        body = b'{"batch":[{"n":1},%b,{"n":2},%b,{"n":3}]}' % (bad, bad)
        outcome = run_body(body, output)
        assert [orjson.loads(line)["n"] for line in outcome.lines] == [1, 2, 3]
        assert outcome.reasons == {"not_an_object": 2}
        assert len(outcome.dead_letters) == 2


class TestCounts:
    @both_formats
    def test_types(self, output):
        """Stored events are counted by the six types; any other type counts as `other`."""
        items = [{"type": name} for name in sorted(EVENT_TYPES)]
        odd = [{"type": "Track"}, {"type": 1}, {"type": ["track"]}, {"type": {}}, {"type": None}]
        outcome = run_body({"batch": [*items, *items, *odd, {}]}, output)
        assert outcome.types == dict.fromkeys(EVENT_TYPES, 2) | {"other": 6}
        assert {"track", "identify", "page", "screen", "group", "alias"} == EVENT_TYPES

    def test_only_what_is_stored(self):
        """An item that is set aside is counted by its reason and not by its type."""
        items = [{"type": "track", "pad": "x" * 500}, {"type": "track"}, 5]
        outcome = run_body({"batch": items}, event_bytes_max=400)
        assert outcome.types == {"track": 1}
        assert outcome.reasons == {"event_too_large": 1, "not_an_object": 1}

    def test_type_of_the_path(self):
        """An event that takes its type from the path is counted as that."""
        assert run_body({}, event_type="alias").types == {"alias": 1}


@both_formats
class TestLimits:
    def test_event_bytes(self, output):
        """An event whose line is at the limit is stored; one byte more is refused, naming both."""
        event = {"messageId": "m", "pad": "é" * 50}
        (line,) = run_body(event, output).lines
        size = len(line)
        assert run_body(event, output, event_bytes_max=size).lines == [line]
        with pytest.raises(BadRequest) as caught:
            run_body(event, output, event_bytes_max=size - 1)
        assert caught.value.code == "event_too_large"
        assert f"takes {size} bytes, the limit is {size - 1}" in str(caught.value)

    def test_large_event_in_a_batch(self, output):
        """In a batch, only the event over the limit is set aside."""
        items = [{"n": 1}, {"n": 2, "pad": "x" * 500}, {"n": 3}]
        outcome = run_body({"batch": items}, output, event_bytes_max=400)
        assert [orjson.loads(line)["n"] for line in outcome.lines] == [1, 3]
        (letter,) = map(orjson.loads, outcome.dead_letters)
        assert letter["reason"] == "event_too_large"
        assert "the limit is 400" in letter["message"]
        assert letter["item"]["n"] == 2

    @pytest.mark.parametrize("depth", [255, 300, 900, 1_010])
    @pytest.mark.parametrize(
        "name",
        [
            *(
                "x",
                "type",
                "properties",
                "traits",
                "context",
                "userId",
                "_timestamp",
                "integrations",
            ),
            *("messageId", "event_id", "eventn_ctx_event_id", "eventn_ctx", "source_ip", "user"),
        ],
    )
    def test_depth(self, output, name, depth):
        """An event nested too deeply is set aside, wherever it is so; its neighbours are stored."""
        deep = b'{"%b":%b,"n":2}' % (name.encode(), nested(depth))
        outcome = run_body(b'{"batch":[{"n":1},%b,{"n":3}]}' % deep, output)
        assert [orjson.loads(line)["n"] for line in outcome.lines] == [1, 3]
        assert outcome.reasons == {"nested_too_deeply": 1}
        (letter,) = map(orjson.loads, outcome.dead_letters)
        assert letter["reason"] == "nested_too_deeply"
        with pytest.raises(BadRequest) as caught:
            run_body(deep, output)
        assert caught.value.code == "nested_too_deeply"
        assert "250 levels" in str(caught.value)

    @pytest.mark.parametrize("name", ["x", "messageId", "source_ip", "timezone", "screen"])
    def test_depth_that_is_stored(self, output, name):
        """An event that is nested less is stored."""
        outcome = run_body(b'{"%b":%b}' % (name.encode(), nested(240)), output)
        assert len(outcome.lines) == 1

    def test_no_object(self, output):
        """An item that is no object never comes alone: a body that is none is refused earlier."""
        with pytest.raises(BadRequest) as caught:
            run_body(b"5", output)
        assert caught.value.code == "invalid_body"


class TestDeadLetters:
    def letters_of(self, body, **options):
        outcome = run_body(body, **options)
        assert outcome.lines == []
        for line in outcome.dead_letters:
            assert line.endswith(b"}\n")
            assert line.count(b"\n") == 1
        return [orjson.loads(line) for line in outcome.dead_letters]

    def test_shape(self):
        """A letter is one line with the reason, a message, the time, the key and the item."""
        assert self.letters_of({"batch": ["a\nb", None]}, api_key="accepted") == [
            {
                "reason": "not_an_object",
                "message": "an item of a batch must be a JSON object",
                "received_at": TIMESTAMP,
                "api_key": "accepted",
                "item": item,
            }
            for item in ("a\nb", None)
        ]

    def test_large_item(self):
        """A letter holds the whole of an event that was too large."""
        pad = "x" * 5_000
        (letter,) = self.letters_of({"batch": [{"pad": pad}]}, event_bytes_max=1_000)
        assert letter["item"]["pad"] == pad

    def test_deep_item(self):
        """An item that is nested too deeply to be part of a letter is in it as text."""
        (letter,) = self.letters_of(b'{"batch":[{"x":%b}]}' % nested(300))
        assert "item" not in letter
        assert json.loads(letter["item_text"])["x"] == json.loads(nested(300))

    def test_item_beyond_writing(self):
        """An item that can't even be written as text leaves a letter that says so."""
        (letter,) = self.letters_of(b'{"batch":[{"x":%b}]}' % nested(1_015))
        assert letter["reason"] == "nested_too_deeply"
        assert letter["item_text"] is None

    def test_write_key_is_in_no_letter(self):
        """The key that the body carries is in no letter of an event."""
        body = {"batch": [{"writeKey": "secret", "pad": "x" * 500}], "writeKey": "secret"}
        (letter,) = self.letters_of(body, event_bytes_max=400)
        assert "secret" not in str(letter)


def test_a_line_takes_its_length_in_memory():
    """A stored line has no spare room: many of them wait for a commit at a time."""
    (line,) = run_body({"numbers": [0] * 3_000}).lines
    usable_bytes = ctypes.CDLL(None).malloc_usable_size
    usable_bytes.argtypes, usable_bytes.restype = [ctypes.c_void_p], ctypes.c_size_t
    assert len(line) < usable_bytes(id(line)) < 1.1 * len(line)
