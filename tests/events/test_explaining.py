"""What is said of an event is what is stored of it, and each value that is new is accounted for."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from segsrv.events import COMPAT, FLAT, SEGMENT, Pipeline, Sender, parse
from segsrv.events.explaining import explain
from segsrv.events.user_agents import UserAgents
from tests.events.event_runs import SHARED_BYTES_MAX
from tests.events.event_strategies import CONTEXTS, EVENTS

parse_user_agent = UserAgents(entries_max=100).parse


def locate(source):
    return {"country": "GB"} if source == "1.1.1.1" else None


def pipeline():
    return Pipeline(event_bytes_max=100_000, parse_user_agent=parse_user_agent, locate=locate)


def parsed(body):
    return parse(orjson.dumps(body), batch_events_max=100, batch_shared_bytes_max=SHARED_BYTES_MAX)


def sender(**options):
    return Sender(**{"api_key": "key", "address": "1.1.1.1", "user_agent": "UA"} | options)


# Made anew each time.
TIMES = ("_timestamp", "receivedAt", "timestamp")


def without_times(event):
    return {name: value for name, value in event.items() if name not in TIMES}


@given(
    context=CONTEXTS,
    events=st.lists(EVENTS, min_size=1, max_size=3),
    output=st.sampled_from([FLAT, COMPAT, SEGMENT]),
    is_client=st.booleans(),
)
def test_it_is_what_is_stored(context, events, output, is_client):
    """Item by item what is shown is what the event path makes of the whole batch."""
    events = [event | {"messageId": str(number)} for number, event in enumerate(events)]
    body = {"batch": events, "context": context, "sentAt": "2026-11-23T09:00:00Z"}
    outcome = pipeline().run(parsed(body), sender(is_client=is_client), output)
    payload = parsed(body)
    shown = [
        explain(payload, index, pipeline(), sender(is_client=is_client), output)
        for index in range(len(events))
    ]
    assert [without_times(one.event) for one in shown if one.event is not None] == [
        without_times(orjson.loads(line)) for line in outcome.lines
    ]
    for one in shown:
        for step in one.steps:
            assert step.how in {"moved", "added", "changed", "left out"}
            assert step.source or step.target


def steps(body, output=FLAT, **options):
    explained = explain(parsed(body), 0, pipeline(), sender(**options), output)
    return {
        (step.how, step.source, step.target): (step.value, step.why) for step in explained.steps
    }


def test_each_value_says_where_it_came_from():
    """Moved, added by a rule, or left out: each with its place before and after."""
    body = {
        "type": "track",
        "messageId": "m",
        "userId": "u",
        "properties": {"total": 3},
        "context": {"page": {"title": "T"}, "os": {"name": "Linux"}, "library": {"name": "x"}},
    }
    flat = steps(body)
    assert flat["moved", "context.page.title", "page_title"] == ('"T"', "")
    assert flat["moved", "userId", "ids.ajs_user_id"] == ('"u"', "")
    assert flat["moved", "properties.total", "total"] == ("3", "")
    assert flat["moved", "messageId", "eventn_ctx_event_id"] == ('"m"', "")
    assert flat["moved", "context.os.name", "parsed_ua.os_family"] == ('"Linux"', "")
    assert flat["added", "", "location.country"][1].startswith("where the GeoIP databases")
    assert flat["added", "", "source_ip"] == (
        '"1.1.1.1"',
        "the sender's address, or the one that a server names",
    )
    segment = steps(body, SEGMENT)
    assert ("added", "", "context.ip") in segment
    assert ("added", "", "receivedAt") in segment
    assert not [key for key in segment if key[0] == "moved"]
    compat = steps(body, COMPAT)
    assert ("moved", "messageId", "eventn_ctx.event_id") in compat


def test_a_refusal_says_why():
    """An item that would not be stored has the code and the message of the answer or the letter."""
    assert explain(parsed({"batch": [7]}), 0, pipeline(), sender(), FLAT)[:2] == ("flat", None)
    refused = explain(parsed({"batch": [7]}), 0, pipeline(), sender(), FLAT)
    assert (refused.code, refused.message) == (
        "not_an_object",
        "an item of a batch must be a JSON object",
    )
    deep = {"type": "track", "properties": {"a": "x" * 200_000}}
    assert explain(parsed(deep), 0, pipeline(), sender(), FLAT).code == "event_too_large"


def test_the_payload_stays_as_it_was():
    """Explaining an item twice, and in other formats, gives the same."""
    payload = parsed({"batch": [{"type": "track", "context": {"page": {"title": "T"}}}]})
    first = explain(payload, 0, pipeline(), sender(), FLAT)
    explain(payload, 0, pipeline(), sender(), SEGMENT)
    again = explain(payload, 0, pipeline(), sender(), FLAT)
    assert [step.target for step in first.steps] == [step.target for step in again.steps]
