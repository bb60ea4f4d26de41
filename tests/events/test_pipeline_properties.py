"""What holds for any body: nothing but a refusal fails, nothing is lost, neighbours stand alone."""

import json
import re

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segsrv.errors import BadRequest
from segsrv.events.geo import Geo
from segsrv.events.user_agents import UserAgents
from tests.events.event_runs import UUID4, run_body
from tests.events.event_strategies import ANY_JSON, EVENTS

both_formats = pytest.mark.parametrize("output", ["flat", "compat"])
parse_user_agent = UserAgents(entries_max=100).parse


class OneCountry:
    """A database that knows one address, and like the real ones refuses what is no address."""

    def get(self, address):
        if not re.fullmatch(r"[0-9.:a-f]+", address):
            raise ValueError(address)
        return {"country": {"iso_code": "DE"}} if address == "1.1.1.1" else None

    def get_with_prefix_len(self, address):
        return self.get(address), 32


locate = Geo([OneCountry()], entries_max=100).locate


def _deep(name, depth, is_object):
    start, end = ('{"k":', "}") if is_object else ("[", "]")
    return f'{{"{name}":{start * depth}0{end * depth}}}'


DEEP_ITEMS = st.builds(
    _deep,
    st.sampled_from(
        "x context properties traits messageId event_id source_ip timezone screen user eventn_ctx"
        " userId type".split()
    ),
    st.sampled_from([3, 248, 252, 253, 254, 255, 256, 300, 600, 900, 1_000, 1_015]),
    st.booleans(),
)
ODD_ITEMS = st.sampled_from(
    [
        '{"x":NaN}',
        '{"x":-Infinity,"context":NaN}',
        '{"messageId":1e999}',
        r'{"userId":"\ud800","messageId":"\udc00"}',
        r'{"context":{"ip":"1.1.1.1\u0000","timezone":"\u0000","userAgent":"\u0000"}}',
        r'{"context":{"page\ud800":{"title":"\ud800"}}}',
        '{"x":' + "9" * 400 + "}",
        '{"pad":"' + "x" * 3_000 + '"}',
        "{}",
        "[]",
        "null",
    ]
)
JSON_ITEMS = st.one_of(EVENTS, EVENTS, ANY_JSON).map(json.dumps)
ITEMS = st.one_of(JSON_ITEMS, JSON_ITEMS, DEEP_ITEMS, ODD_ITEMS)
SENDERS = st.fixed_dictionaries(
    {},
    optional={
        "address": st.sampled_from(["", "1.1.1.1", "2001:db8::1"]),
        "user_agent": st.sampled_from(["", "curl/7.68.0", "caf\udce9"]),
        "ip_policy": st.sampled_from(["keep", "strict", "comply"]),
        "cookie_policy": st.sampled_from(["keep", "strict", "comply"]),
        "event_type": st.sampled_from([None, "track"]),
    },
)
LIMITS = {"event_bytes_max": 2_000, "parse_user_agent": parse_user_agent, "locate": locate}
bounded = settings(deadline=None, max_examples=250)


def batch_of(items, context="null"):
    return f'{{"batch":[{",".join(items)}],"context":{context},"sentAt":"s"}}'.encode()


def outcome_of(body, output, sender):
    """Return the outcome, or None for a refusal; any other exception is a failure.

    A batch may be refused as a whole only for nesting that the tolerant parser does not follow.
    """
    try:
        return run_body(body, output, **LIMITS, **sender)
    except BadRequest as refusal:
        if body.startswith(b'{"batch":') and "nested too deeply" not in str(refusal):
            raise
        return None


def is_one_line(line):
    return line.endswith(b"\n") and line.count(b"\n") == 1 and isinstance(orjson.loads(line), dict)


def without_made_ids(lines):
    """Return *lines* with each UUID4 replaced, since those made here differ from run to run."""
    return [re.sub(UUID4.encode(), b"(made)", line) for line in lines]


@both_formats
@given(item=ITEMS, sender=SENDERS)
@example(item=_deep("messageId", 300, is_object=True), sender={})
@example(item=_deep("source_ip", 1_015, is_object=False), sender={})
@example(item=r'{"source_ip":"1.1.1.1\u0000"}', sender={"ip_policy": "strict"})
@bounded
def test_single_event(output, item, sender):
    """A single event is stored as one line, or refused; nothing else comes out."""
    outcome = outcome_of(item.encode(), output, sender)
    if outcome is None:
        return
    assert all(map(is_one_line, outcome.lines))
    assert len(outcome.lines) == sum(outcome.types.values()) == 1
    assert outcome.dead_letters == []


@both_formats
@given(items=st.lists(ITEMS, max_size=6), context=JSON_ITEMS, sender=SENDERS)
@bounded
def test_batch(output, items, context, sender):
    """Each item of a batch is stored as one line or set aside as one, and counted as that."""
    outcome = outcome_of(batch_of(items, context), output, sender)
    if outcome is None:
        return
    assert all(map(is_one_line, outcome.lines + outcome.dead_letters))
    assert len(outcome.lines) + len(outcome.dead_letters) == len(items)
    assert sum(outcome.types.values()) == len(outcome.lines)
    assert sum(outcome.reasons.values()) == len(outcome.dead_letters)
    assert all(len(line) <= LIMITS["event_bytes_max"] for line in outcome.lines)


@both_formats
@given(items=st.lists(ITEMS, min_size=2, max_size=5), context=JSON_ITEMS, sender=SENDERS)
@bounded
def test_neighbours(output, items, context, sender):
    """Every item of a batch comes out as it does in a batch of its own."""
    together = outcome_of(batch_of(items, context), output, sender)
    if together is None:
        return
    alone = [run_body(batch_of([item], context), output, **LIMITS, **sender) for item in items]
    assert without_made_ids(together.lines) == without_made_ids(
        line for outcome in alone for line in outcome.lines
    )
    assert without_made_ids(together.dead_letters) == without_made_ids(
        line for outcome in alone for line in outcome.dead_letters
    )
    assert together.delete_cookie == any(outcome.delete_cookie for outcome in alone)


@both_formats
@given(event=EVENTS, sender=SENDERS)
@bounded
def test_single_or_in_a_batch(output, event, sender):
    """An event is stored the same whether it is sent by itself or in a batch that adds nothing."""
    single = run_body(event, output, **LIMITS, **sender)
    batch = run_body({"batch": [event]}, output, **LIMITS, **sender)
    assert without_made_ids(single.lines) == without_made_ids(batch.lines)
    assert single.types == batch.types


@both_formats
@given(event=EVENTS, sender=SENDERS)
@bounded
def test_what_every_stored_event_has(output, event, sender):
    """Whatever an event says, its line has the source, the key, a time and a text as event id."""
    (line,) = run_body(event, output, **LIMITS, **sender).lines
    stored = orjson.loads(line)
    assert (stored["src"], stored["api_key"]) == ("segment_api", "key")
    assert stored["_timestamp"] is not None
    flattened = [event.get(name) for name in ("properties", "context")]
    assert ("messageId" in stored) == any(
        isinstance(part, dict) and "messageId" in part for part in flattened
    )
    assert "timezone" not in stored
    assert not stored.keys() & {"page", "traits", "userAgent", "campaign", "os", "device", "ip"}
    tracker = stored.get("eventn_ctx")
    event_id = tracker["event_id"] if isinstance(tracker, dict) else stored["eventn_ctx_event_id"]
    assert isinstance(event_id, str)
    assert event_id


SHARED_PARTS = st.dictionaries(
    st.sampled_from(
        "page campaign referrer traits user eventn_ctx screen os device ip userAgent location ids"
        " parsed_ua doc utm app".split()
    ),
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys("title name url width height event_id id".split(), st.just("x")),
            "user": st.just({"a": 1}),
            "anonymous_id": st.integers(),
        },
    )
    | st.just("1.1.1.1"),
)


@both_formats
@given(shared=SHARED_PARTS, own=st.lists(EVENTS, min_size=2, max_size=4))
@settings(deadline=None, max_examples=150)
def test_events_that_share_a_context_do_not_share_changes(output, shared, own):
    """Each event of a batch is stored as if it alone had the batch's context for its own."""
    alone = []
    for number, event in enumerate(own):
        if not isinstance(event.get("context"), dict):
            event["context"] = {}
        event["messageId"] = str(number)
        item = event | {"context": json.loads(json.dumps(shared)) | event["context"]}
        alone += run_body({"batch": [item]}, output, cookie_policy="strict").lines
    together = run_body({"batch": own, "context": shared}, output, cookie_policy="strict").lines
    assert [orjson.loads(line) for line in together] == [orjson.loads(line) for line in alone]
