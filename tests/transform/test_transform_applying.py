"""What functions make of one event, without a process between."""

import pytest

from segsrv.testing import BadResult, EventContext, apply
from segsrv.transform.applying import EVENTS_MADE_MAX, MadeLimits, apply_to_line

FLAT = {"event_type": "track", "eventn_ctx_event_id": "a", "n": 1}
COMPAT = {"event_type": "track", "eventn_ctx": {"event_id": "a", "page": "/"}}
SEGMENT = {"type": "track", "messageId": "a"}
LIMITS = MadeLimits(event_bytes_max=1_000, total_bytes_max=3_000)


class TestResults:
    def test_a_dict_is_the_event(self):
        """What a function returns is stored in place of the event."""
        assert apply(lambda event, _context: {**event, "n": 2}, FLAT) == [{**FLAT, "n": 2}]

    def test_none_drops(self):
        """None and an empty list leave nothing."""
        assert apply(lambda _event, _context: None, FLAT) == []
        assert apply(lambda _event, _context: [], FLAT) == []

    @pytest.mark.parametrize(
        ("output", "event", "ids"),
        [
            ("flat", FLAT, [{"eventn_ctx_event_id": text} for text in ("a", "a-1", "a-2")]),
            (
                "compat",
                COMPAT,
                [{"eventn_ctx": {"event_id": text, "page": "/"}} for text in ("a", "a-1", "a-2")],
            ),
            ("segment", SEGMENT, [{"messageId": text} for text in ("a", "a-1", "a-2")]),
        ],
    )
    def test_several_have_ids_of_their_own(self, output, event, ids):
        """The first of a list keeps the id, the others get numbers, where the format has it."""
        found = apply(lambda event, _context: [event, event, event], event, format=output)
        assert found == [{**event, **own} for own in ids]

    def test_ids_that_a_function_gives_stay(self):
        """An event of a list that has another id than the original keeps it."""
        found = apply(lambda event, _: [event, {"eventn_ctx_event_id": "mine"}], FLAT)
        assert [each["eventn_ctx_event_id"] for each in found] == ["a", "mine"]

    def test_functions_follow_each_other(self):
        """Each gets all that the one before made, with what is known of each by then."""
        seen = []

        def look(event, context):
            seen.append((context.event_id, context.type))
            return event

        def split(event, _context):
            return [event, {**event, "event_type": "page"}]

        context = EventContext(key_id="web", type="track", event_id="a")
        line = b'{"event_type":"track","eventn_ctx_event_id":"a"}\n'
        made = apply_to_line([split, look], line, context, LIMITS)
        assert seen == [("a", "track"), ("a-1", "page")]
        assert [(each.event_id, each.type) for each in made] == seen

    def test_a_function_of_several_changes_one(self):
        """What a later function does to one event of a list leaves the others as they are."""

        def split(event, _context):
            shared = {"n": 0}
            return [{**event, "shared": shared}, {**event, "shared": shared}]

        def count(event, _context):
            event["shared"]["n"] += 1
            return event

        made = apply_to_line([split, count], b"{}\n", EventContext(event_id="a"), LIMITS)
        assert [b'"n":1' in each.line for each in made] == [True, True]


class TestWhatCannotBeStored:
    @pytest.mark.parametrize(
        ("result", "text"),
        [
            ("text", "returned str, expected a dict"),
            ([{}, 1], "returned a list with int"),
            ({"a": {1, 2}}, "what JSON can't hold"),
            ({1: "a"}, "what JSON can't hold"),
            ({"a": 1 << 70}, "what JSON can't hold"),
            ({"a": "\ud800"}, "what JSON can't hold"),
            ([{}] * (EVENTS_MADE_MAX + 1), "more than 1000 events"),
            ({"a": "x" * 1_000_000}, "the limit is event_bytes_max=1000000"),
        ],
        ids=["text", "number", "set", "key", "large", "surrogate", "many", "long"],
    )
    def test_it_is_said(self, result, text):
        """A result that is no event, or too large, is an error that says what it was."""
        with pytest.raises(BadResult, match=text):
            apply(lambda _event, _context: result, FLAT)

    def test_all_that_is_made_of_one_has_a_limit(self):
        """Several events of a size that is allowed may be too much together."""

        def split(event, _context):
            return [{**event, "text": "x" * 900}] * 4

        with pytest.raises(BadResult, match="more than 3000 bytes"):
            apply_to_line([split], b"{}\n", EventContext(), LIMITS)

    def test_what_a_function_raises_passes(self):
        """A test sees the function's own error."""
        with pytest.raises(ZeroDivisionError):
            apply(lambda event, _context: event["n"] / 0, FLAT)


def test_the_event_of_a_test_stays_as_it_is():
    """A function may change its event; the caller's is a copy."""
    event = dict(FLAT)
    apply(lambda own, _context: own.clear(), event)
    assert event == FLAT


def test_the_context_says_what_is_known():
    """The id and type come from the event, the rest from the caller."""
    seen = []
    apply(lambda _event, context: seen.append(context), FLAT, key_id="web", sink="files")
    assert seen == [
        EventContext(key_id="web", format="flat", type="track", event_id="a", sink="files")
    ]
