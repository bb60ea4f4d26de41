"""What is learned of a body before it is parsed: the keys it names, and how much JSON it is."""

import itertools
import json

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segsrv.errors import BadRequest
from segsrv.events import scan
from segsrv.events.scan import WRITE_KEYS_MAX, check_ends, check_values, write_key_texts
from tests.events.event_strategies import ANY_JSON

NAME = "writeKey"


def texts(body, key_bytes_max=100):
    found = write_key_texts(body, key_bytes_max=key_bytes_max)
    return [text for text in found if text is not None]


def escaped(text, which=lambda _index: True):
    """Write *text* as a JSON text with some of its characters as escapes."""
    parts = (f"\\u{ord(char):04x}" if which(i) else char for i, char in enumerate(text))
    return '"' + "".join(parts) + '"'


class TestWriteKeyTexts:
    @pytest.mark.parametrize(
        "body",
        [
            b'{"writeKey":"k"}',
            b'{ "writeKey" \r\n\t:  "k" }',
            b'{"batch":[{"a":{"writeKey":"k"}}]}',
            b'{"writeKey":"\\u006b"}',
            b'{"write\\u004bey":"k"}',
            b'{"\\u0077\\u0072\\u0069\\u0074\\u0065\\u004B\\u0065\\u0079":"k"}',
            b'\xef\xbb\xbf{"n":NaN,"t":"\xff\\ud800","writeKey":"k"}',
            b'{"writeKey":"k",',
            b'["\\\\\\"",{"writeKey":"k"}]',
        ],
    )
    def test_a_key_is_found_however_it_is_written(self, body):
        """Space, escapes and what only a tolerant reading takes do not hide a key."""
        assert texts(body) == ["k"]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b'{"writeKey":1}',
            b'{"writeKey":""}',
            b'{"writeKey":null}',
            b'{"WriteKey":"k"}',
            b'{"writeKey" "k"}',
            b'{"a":"writeKey"}',
            b'{"\\u0061riteKey":"k"}',
        ],
    )
    def test_what_is_no_key(self, body):
        """Another name, and what is no text or an empty one, give nothing."""
        assert texts(body) == []

    def test_the_last_one_comes_first(self):
        """Most SDKs end a body with its key, so the last place is looked at first."""
        assert texts(b'{"batch":[{"writeKey":"a"},{"writeKey":"b"}],"writeKey":"c"}') == [
            "c",
            "a",
            "b",
        ]

    def test_a_text_that_is_longer_than_any_key_is_not_kept(self):
        """In place of a text over the limit, escapes decoded, stands an empty one."""
        assert texts(b'{"writeKey":"%s"}' % (b"k" * 1_000), 100) == [""]
        assert texts(b'{"writeKey":%s}' % escaped("k" * 100).encode(), 100) == ["k" * 100]

    @pytest.mark.parametrize("letter", [1, 5, 6])
    def test_an_escape_may_stand_at_the_end_of_a_part(self, monkeypatch, letter):
        """Wherever the search pauses, a name with an escape is found, and found once."""
        name = escaped(NAME, lambda index: index == letter)
        for part_bytes in range(1, 20):
            monkeypatch.setattr(scan, "SEARCHED_BYTES", part_bytes)
            assert texts(b'{"a":0,%s:"k"}' % name.encode()) == ["k"]

    def test_the_search_for_escapes_pauses(self):
        """Most of an escape, over and over, is slow to search: it is not done in one piece."""
        body = rb"\u007" * (4 * scan.SEARCHED_BYTES // 5)
        assert list(write_key_texts(body, key_bytes_max=100)).count(None) >= 4

    def test_no_more_places_than_a_batch_may_have(self):
        """A body of nothing but keys costs as many look-ups as a batch has places for one."""
        body = b'[{"writeKey":"k"}' + b',{"writeKey":"k"}' * 20_000 + b"]"
        assert len(texts(body)) == WRITE_KEYS_MAX + 1

    @given(
        st.recursive(
            st.dictionaries(st.sampled_from([NAME, "a"]), st.text(min_size=1, max_size=5)),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from([NAME, "batch", "a"]), inner, max_size=3)
            ),
        ),
        st.sets(st.integers(0, 10)),
        st.booleans(),
    )
    @settings(deadline=None, max_examples=200)
    def test_no_key_is_missed(self, value, which, is_ascii):
        """Every text under the name is found, whatever JSON writer wrote the body."""
        expected = set()

        def walk(part):
            for name, inner in part.items() if isinstance(part, dict) else enumerate(part):
                if name == NAME and isinstance(inner, str):
                    expected.add(inner)
                elif not isinstance(inner, str):
                    walk(inner)

        walk(value)
        body = json.dumps(value, ensure_ascii=is_ascii)
        body = body.replace(f'"{NAME}"', escaped(NAME, which.__contains__))
        assert expected <= set(texts(body.encode()))


class TestCheckEnds:
    @pytest.mark.parametrize("body", [b"{}", b" [1]\n", b"\xef\xbb\xbf{}", b'{"a":NaN}'])
    def test_whole(self, body):
        """What begins and ends as an object or array may be one."""
        check_ends(body)

    @pytest.mark.parametrize("body", [b"{", b'{"batch":[{"a":1},', b"}", b"text", b"  "])
    def test_cut_short(self, body):
        """A body that lost its end, or is no object, is refused as such."""
        with pytest.raises(BadRequest) as caught:
            check_ends(body)
        assert caught.value.code == "invalid_json"


def values_of(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(values_of, inner))


def refusal_of(body, values_max):
    try:
        for _ in check_values(body, values_max):
            pass
    except BadRequest as error:
        return error
    return None


class TestCheckValues:
    @given(ANY_JSON, st.integers(1, 7), st.booleans())
    @example({"a,[{": "]},\\", "b": [[], {}, ["\\\\", '"', ""]]}, 3, True)
    @settings(deadline=None, max_examples=400)
    def test_values_are_counted_exactly(self, value, piece_bytes, is_spaced):
        """A body has as many values as a parser finds in it, wherever its pieces are cut."""
        # Long enough that its length alone does not decide.
        value = [value, *["," * 40] * 5, [], {}, [[]], {"a": {}}]
        body = orjson.dumps(value, option=orjson.OPT_INDENT_2 if is_spaced else 0)
        count = values_of(orjson.loads(body))
        before, scan.PIECE_BYTES = scan.PIECE_BYTES, piece_bytes
        try:
            assert refusal_of(body, count) is None
            refusal = refusal_of(body, count - 1)
        finally:
            scan.PIECE_BYTES = before
        assert refusal.code == "too_many_values"
        assert str(count - 1) in str(refusal)

    def test_texts_full_of_separators_are_no_values(self):
        """Commas and brackets in texts do not count, so prose is never refused for them."""
        body = orjson.dumps({"text": "a, b [c] {d}," * 100_000})
        assert refusal_of(body, 1_000) is None

    def test_the_count_ends_where_there_are_too_many(self):
        """A body over the limit is refused after the piece that shows it."""
        body = b"[" + b"0," * 1_000_000 + b"0]"
        with pytest.raises(BadRequest):
            list(itertools.islice(check_values(body, 40_000), 5))

    def test_an_sdk_batch_is_below_the_default(self):
        """2,500 events of fifty values each are taken."""
        event = {"properties": {f"p{index}": [index, {}] for index in range(12)}}
        assert refusal_of(orjson.dumps({"batch": [event] * 2_500}), 300_000) is None
