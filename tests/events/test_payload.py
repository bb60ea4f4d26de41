"""Body bytes to items: what is read, what is refused, and what is mended."""

import json
from decimal import Decimal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segsrv.errors import BadRequest
from segsrv.events import parse, parsing
from segsrv.events.payload import TOLERANT_BYTES_MAX
from tests.events.event_strategies import ANY_JSON


def read(body, **limits):
    return parse(body, **{"batch_events_max": 10, "batch_shared_bytes_max": 10_000} | limits)


def items_of(body):
    return read(body).items


def refusal_of(body, **limits):
    with pytest.raises(BadRequest) as caught:
        read(body, **limits)
    assert caught.value.status == 400
    return caught.value


class TestShapes:
    def test_single_event(self):
        """An object without `batch` is one event, and shares nothing with others."""
        payload = read(b'{"a":1,"context":{},"sentAt":"s"}')
        assert payload.items == [{"a": 1, "context": {}, "sentAt": "s"}]
        assert not payload.is_batch
        assert (payload.context, payload.integrations, payload.sent_at) == (None, None, None)

    def test_batch(self):
        """A batch gives its items in order, of whatever kind, and what it says for all of them."""
        payload = read(
            b'{"batch":[{"a":1},2,null,[],{"b":3}],"context":{"c":4},"integrations":{"All":true},'
            b'"sentAt":"s","messageId":"m","timestamp":"t","sequence":1}',
            batch_events_max=5,
        )
        assert payload.items == [{"a": 1}, 2, None, [], {"b": 3}]
        assert payload.is_batch
        assert payload.context == {"c": 4}
        assert payload.integrations == {"All": True}
        assert payload.sent_at == "s"

    def test_empty_batch(self):
        """A batch of nothing is a batch."""
        payload = read(b'{"batch":[]}')
        assert (payload.items, payload.is_batch) == ([], True)

    @pytest.mark.parametrize("value", [None, [], "text", 1, True], ids=repr)
    def test_batch_fields_that_are_no_objects(self, value):
        """A batch's `context` or `integrations` that is no object counts as absent."""
        body = orjson.dumps({"batch": [], "context": value, "integrations": value})
        payload = read(body)
        assert (payload.context, payload.integrations) == (None, None)

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (b"[]", "an array"),
            (b"null", "null"),
            (b'"text"', "a string"),
            (b"true", "a boolean"),
            (b"1", "a number"),
            (b"1.5", "a number"),
            (b"NaN", "null"),
        ],
    )
    def test_no_object(self, body, kind):
        """A body that is no object is refused, and the answer says what it is."""
        error = refusal_of(body)
        assert error.code == "invalid_body"
        assert str(error).endswith(f"not {kind}")

    @pytest.mark.parametrize(
        ("batch", "kind"),
        [("null", "null"), ("{}", "an object"), ('""', "a string"), ("0", "a number")],
    )
    def test_batch_that_is_no_array(self, batch, kind):
        """A `batch` that is no array is refused, and the answer says what it is."""
        error = refusal_of(f'{{"batch":{batch}}}'.encode())
        assert error.code == "invalid_batch"
        assert str(error).endswith(f"not {kind}")

    def test_batch_context_nested_too_deeply(self):
        """A batch's context that no event could be stored with is refused at once."""
        context = b"[" * 300 + b"]" * 300
        error = refusal_of(b'{"batch":[{}],"context":{"a":%b}}' % context)
        assert error.code == "nested_too_deeply"
        assert "context" in str(error)

    def test_batch_too_long(self):
        """A batch at the limit is read; one more is refused, naming both numbers."""
        assert len(read(b'{"batch":[1,2,3]}', batch_events_max=3).items) == 3
        error = refusal_of(b'{"batch":[1,2,3,4]}', batch_events_max=3)
        assert error.code == "batch_too_long"
        assert "4" in str(error)
        assert "3" in str(error)

    @pytest.mark.parametrize(
        "shared",
        [
            {"context": {"app": "x" * 83}},
            {"integrations": {"app": "x" * 83}},
            {"sentAt": "x" * 92},
            {"context": {"a": "x" * 20}, "integrations": {"b": "x" * 20}, "sentAt": "x" * 32},
        ],
        ids="-".join,
    )
    def test_batch_too_large(self, shared):
        """What a batch's events share is limited times their number, naming all three."""
        size = sum(len(orjson.dumps(value)) for value in shared.values())
        body = orjson.dumps(shared | {"batch": [{}] * 10})
        assert len(read(body, batch_shared_bytes_max=10 * size).items) == 10
        error = refusal_of(body, batch_shared_bytes_max=10 * size - 1)
        assert error.code == "batch_too_large"
        for number in (size, 10, 10 * size - 1):
            assert str(number) in str(error)

    @pytest.mark.parametrize("name", ["context", "integrations", "sentAt"])
    def test_single_events_share_nothing(self, name):
        """An event by itself has no copies, so the limit is not for it."""
        assert items_of(orjson.dumps({name: {"a": "x" * 20_000}})) != []

    @pytest.mark.parametrize(
        "body",
        [b"", b" ", b"{", b"{}{}", b'{"a":}', b"{'a':1}", b"\xff", b"\xef\xbb\xbf", b'{"a":"\n"}'],
        ids=repr,
    )
    def test_no_json(self, body):
        """What is no JSON in any reading is refused, with the place of the fault."""
        error = refusal_of(body)
        assert error.code == "invalid_json"
        assert "line 1 column" in str(error)

    @pytest.mark.parametrize("nesting", [b"[", b'{"a":'])
    @pytest.mark.parametrize("depth", [2_000, 100_000])
    def test_nested_beyond_reading(self, nesting, depth):
        """Nesting that no parser follows is refused, whatever else is odd about the body."""
        assert refusal_of(b'{"a":' + nesting * depth).code == "invalid_json"
        assert refusal_of(b'{"n":NaN,"a":' + nesting * depth).code == "invalid_json"
        body = b'{"n":NaN,"a":' + b"[" * depth + b"]" * depth + b"}"
        assert refusal_of(body).code == "invalid_json"


class TestWriteKey:
    @pytest.mark.parametrize(
        ("body", "key"),
        [
            (b'{"writeKey":"k"}', "k"),
            (b"{}", None),
            (b'{"writeKey":""}', None),
            (b'{"writeKey":null}', None),
            (b'{"writeKey":5}', None),
            (b'{"writeKey":"k","batch":[{"writeKey":"i"}]}', "k"),
            (b'{"writeKey":"","batch":[{"writeKey":"i"}]}', "i"),
            (b'{"batch":[1,{},{"writeKey":5},{"writeKey":"i"},{"writeKey":"j"}]}', "i"),
            (b'{"batch":[{"context":{"writeKey":"i"}}]}', None),
            (b'{"batch":[]}', None),
        ],
    )
    def test_where_it_is_found(self, body, key):
        """The key is the body's, else that of the first item that has one; only text is a key."""
        assert read(body).write_key == key


NEIGHBOURS = ({"a": 1, "t": "é😀\\u0041"}, {"b": 2.5, "t": "\u0000\u2028"})


def batch_with(odd):
    """Return a batch of a good item, one that holds *odd* as its `x`, and another good item."""
    first, last = (json.dumps(item, ensure_ascii=False).encode() for item in NEIGHBOURS)
    return b'{"batch":[%b,{"x":%b},%b]}' % (first, odd, last)


class TestTolerance:
    @pytest.mark.parametrize(
        ("odd", "value"),
        [
            (b"NaN", None),
            (b"Infinity", None),
            (b"-Infinity", None),
            (b"1e999", None),
            (b"-1e999", None),
            (b"[1e308,1e309]", [1e308, None]),
            (b'{"deep":[NaN,1]}', {"deep": [None, 1]}),
            (b'"\\ud800"', "\ufffd"),
            (b'"\\udc00\\ud800"', "\ufffd\ufffd"),
            (b'"a\\ud83db"', "a\ufffdb"),
            (b'"\\ud83d\\ude00"', "😀"),
            (b'"\\ud83d\\ude00\\ud83d"', "😀\ufffd"),
            (b'"NaN Infinity 1e999"', "NaN Infinity 1e999"),
            (b'{"k\\ud800":1,"l":2}', {"k\ufffd": 1, "l": 2}),
            (b'"\xff"', "\ufffd"),
            (b'"\xc3"', "\ufffd"),
            (b'"\xed\xa0\x80x"', "\ufffd\ufffd\ufffdx"),
            (b'{"k\xff":"v"}', {"k\ufffd": "v"}),
            (b"18446744073709551615", 18446744073709551615),
            (b"-9223372036854775808", -9223372036854775808),
            (b"18446744073709551616", 18446744073709551616.0),
            (b"1" * 100, float("1" * 100)),
            (b"9" * 400, None),
            (b"-" + b"9" * 400, None),
            (b"9" * 5_000, None),
            (b"[NaN,9007199254740993]", [None, 9007199254740993]),
            (b"[NaN,1234567890123456789]", [None, 1234567890123456789]),
            (b"[NaN,18446744073709551615]", [None, 18446744073709551615]),
            (b"[NaN,-9223372036854775808]", [None, -9223372036854775808]),
            (b'["\\ud800",1234567890123456789]', ["\ufffd", 1234567890123456789]),
            (b"[1e400,12345678901234567890]", [None, 12345678901234567890]),
            (b"[NaN,18446744073709551616]", [None, 18446744073709551616.0]),
            (b"[NaN,0.1,1E3,-0.0]", [None, 0.1, 1000.0, -0.0]),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_what_sdks_send(self, odd, value):
        """A number JSON can't hold is null, a character UTF-8 can't is U+FFFD; the rest is kept."""
        first, middle, last = items_of(batch_with(odd))
        assert repr(middle) == repr({"x": value})
        assert (first, last) == NEIGHBOURS

    @pytest.mark.parametrize("odd", [b"1", b"NaN", b'"\\ud800"', b'"\xff"'])
    def test_byte_order_mark(self, odd):
        """A byte order mark before the body is skipped."""
        body = batch_with(odd)
        assert items_of(b"\xef\xbb\xbf" + body) == items_of(body)

    def test_the_slow_reading_is_for_bodies_as_sdks_send_them(self):
        """At the limit an oddity is mended; above it the answer says where it is, and the limit."""
        for size, is_read in ((TOLERANT_BYTES_MAX, True), (TOLERANT_BYTES_MAX + 1, False)):
            body = b'{"n":NaN,"pad":""}'
            body = body.replace(b'""', b'"%b"' % (b"x" * (size - len(body))))
            assert len(body) == size
            if is_read:
                assert items_of(body)[0]["n"] is None
            else:
                text = str(refusal_of(body))
                assert "line 1 column 6" in text
                assert str(TOLERANT_BYTES_MAX) in text

    def test_the_slow_reading_pauses(self):
        """A body of nothing but oddities is mended in many steps, so that others are served."""
        for odd in (b"NaN", rb'"\ud800"'):
            body = b'{"a":[%b0]}' % ((odd + b",") * 50_000)
            assert len(list(parsing(body, batch_events_max=10, batch_shared_bytes_max=10))) >= 40

    @pytest.mark.parametrize("number", [b"01e999", b"1" * 400 + b".", b"-00.1e99999", b"1e999e9"])
    def test_what_is_no_number_is_refused_however_large(self, number):
        """A number that is not written as JSON writes them is no JSON; it does not become null."""
        refusal_of(b'{"a":%b}' % number)

    def test_duplicate_names(self):
        """Of a name given twice the last value counts, in the tolerant reading too."""
        assert items_of(b'{"a":1,"a":2}') == [{"a": 2}]
        assert items_of(b'{"a":1,"a":2,"n":NaN}') == [{"a": 2, "n": None}]

    @given(ANY_JSON)
    @settings(deadline=None, max_examples=200)
    def test_tolerant_reading_changes_nothing_else(self, value):
        """A body that is read tolerantly, for one NaN in it, gives the same values otherwise."""
        text = json.dumps(value).encode()
        (strict,) = items_of(b'{"v":%b}' % text)
        (tolerant,) = items_of(b'{"v":%b,"n":NaN}' % text)
        assert orjson.dumps(tolerant["v"]) == orjson.dumps(strict["v"])

    @given(
        st.binary(max_size=30)
        | st.lists(
            st.sampled_from(
                [
                    *rb'{ } [ ] , : "a" "batch" NaN -Infinity 1e999 -0 null'.split(),
                    *(rb'"\ud800"', rb'"\udc00'),
                    *(b"\xff", b"\xef\xbb\xbf", b"9" * 400, b'{"batch":[', b'{"context":{', b'"'),
                ]
            ),
            max_size=12,
        ).map(b"".join)
    )
    @settings(deadline=None, max_examples=500)
    def test_any_bytes(self, body):
        """Any bytes are read or refused; what is read can be written again."""
        try:
            items = items_of(body)
        except BadRequest:
            return
        assert orjson.loads(orjson.dumps(items)) == items

    @given(st.decimals(allow_nan=False, allow_infinity=False).filter(lambda d: d.is_finite()))
    @settings(deadline=None, max_examples=100)
    def test_any_number(self, number):
        """A number of any size is read as the nearest one that JSON tools hold, or as null."""
        text = str(Decimal(number))
        (item,) = items_of(b'{"x":%b}' % text.encode())
        nearest = float(text)
        assert item["x"] == (None if nearest in (float("inf"), float("-inf")) else nearest) or (
            item["x"] == int(number)
        )
