"""The loop that stores events, beside the reference that says the same step by step."""

import json
import re
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segsrv.errors import BadRequest
from segsrv.events.geo import Geo
from segsrv.events.user_agents import CACHED_CHARS_MAX, UserAgents
from tests.events.event_runs import run_body
from tests.events.event_strategies import ANY_JSON, CONTEXTS, EVENTS
from tests.events.test_pipeline_properties import DEEP_ITEMS, ODD_ITEMS

both_formats = pytest.mark.parametrize("output", ["flat", "compat"])
parse_user_agent = UserAgents(entries_max=100).parse
LONG_AGENT = "curl/7.68.0 ".ljust(CACHED_CHARS_MAX + 1, "x")


class TwoCountries:
    """A database that knows two addresses; what it says of the second JSON can't hold."""

    def get(self, address):
        if not re.fullmatch(r"[0-9.:a-f]+", address):
            raise ValueError(address)
        if address == "2.2.2.2":
            return {"country": {"iso_code": "US"}, "autonomous_system_number": 1 << 70}
        return {"country": {"iso_code": "DE"}} if address == "1.1.1.1" else None

    def get_with_prefix_len(self, address):
        return self.get(address), 32


locate = Geo([TwoCountries()], entries_max=100).locate

SENDERS = st.fixed_dictionaries(
    {},
    optional={
        "api_key": st.sampled_from(["key", None]),
        "address": st.sampled_from(["", "1.1.1.1", "9.9.9.9", "2001:db8::1"]),
        "user_agent": st.sampled_from(["", "curl/7.68.0", "caf\udce9", LONG_AGENT]),
        "ip_policy": st.sampled_from(["keep", "strict", "comply"]),
        "cookie_policy": st.sampled_from(["keep", "strict", "comply"]),
        "event_type": st.sampled_from([None, "track"]),
        "is_client": st.booleans(),
        "gives_user_agent": st.booleans(),
        "correct_timestamps": st.booleans(),
    },
)
STAMPS = st.sampled_from([None, "", "s", "2026-11-23T08:59:59Z", "2026-11-23T10:00:00+02:00", 5])
TIMED_EVENTS = st.builds(
    lambda event, times: event | times,
    EVENTS,
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("sentAt", "timestamp", "originalTimestamp"), STAMPS)
        | {
            "messageId": st.sampled_from(["m", "", None, 5, {"k": [1]}]),
            "integrations": st.sampled_from([{}, {"A": 1}, [], None, "text"]),
            "writeKey": st.just("w"),
            "source_ip": st.sampled_from(["0.0.0.0", "::", "1.1.1.1"]),
        },
    ),
)
ITEMS = st.one_of(
    TIMED_EVENTS.map(json.dumps),
    TIMED_EVENTS.map(json.dumps),
    ANY_JSON.map(json.dumps),
    DEEP_ITEMS,
    ODD_ITEMS,
)
# Names of which no rule takes anything, then any others.
PLAIN_CONTEXTS = st.dictionaries(
    st.sampled_from("library app network screen timezone event_id k context_raw".split()),
    st.sampled_from([None, "x", 1, {}, {"name": "n"}, {"width": 1, "height": 2}, "Europe/Berlin"]),
    max_size=4,
)
SHARED = st.fixed_dictionaries(
    {},
    optional={
        "context": PLAIN_CONTEXTS | PLAIN_CONTEXTS | CONTEXTS | st.sampled_from([None, [], "x"]),
        "integrations": st.sampled_from([{"A": 0, "B": 1}, None, "text"]),
        "sentAt": STAMPS,
    },
)


def described(body, output, sender, **options):
    """Return all that became of *body*, a refusal too; ids that are made are numbers."""
    made = iter(range(10_000))
    try:
        with patch("segsrv.events.steps.uuid.uuid4", lambda: f"made-{next(made)}"):
            outcome = run_body(
                body,
                output,
                parse_user_agent=parse_user_agent,
                locate=locate,
                event_bytes_max=2_000,
                **options,
                **sender,
            )
    except BadRequest as refusal:
        return refusal.code, str(refusal)
    return {name: getattr(outcome, name) for name in outcome.__slots__}


def compare(body, output, sender):
    """Insist on the reference's outcome, byte for byte."""
    stored = described(body, output, sender)
    assert stored == described(body, output, sender, is_reference=True)
    return stored


@both_formats
@given(items=st.lists(ITEMS, max_size=4), shared=SHARED, sender=SENDERS)
@example(items=['{"context":{"ip":"2.2.2.2"}}'], shared={}, sender={"ip_policy": "comply"})
@settings(deadline=None, max_examples=400)
def test_batches(output, items, shared, sender):
    """Whatever a batch holds and shares, the loop's lines and letters are the reference's."""
    said = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in shared.items())
    compare(f'{{"batch":[{",".join(items)}]{said}}}'.encode(), output, sender)


@both_formats
@given(item=ITEMS, sender=SENDERS)
@settings(deadline=None, max_examples=300)
def test_single_events(output, item, sender):
    """Whatever an event holds, the loop's line or refusal is the reference's."""
    compare(item.encode(), output, sender)


@both_formats
def test_what_was_found_is_in_the_letters(output):
    """A letter shows what was found of an event that is set aside, for depth as for length."""
    deep = "[" * 300 + "]" * 300
    agent = '"context":{"userAgent":"curl/7.68.0","ip":"1.1.1.1"}'
    body = f'{{"batch":[{{"x":{deep},{agent}}},{{"x":"{"x" * 3_000}",{agent}}}]}}'.encode()
    stored = compare(body, output, {})
    deep_letter, large_letter = map(json.loads, stored["dead_letters"])
    for item in (json.loads(deep_letter["item_text"]), large_letter["item"]):
        holder = item.get("eventn_ctx", item)
        assert holder["parsed_ua"] == {"ua_family": "curl", "ua_version": "7.68.0"}
        assert holder["location"] == {"country": "DE"}
