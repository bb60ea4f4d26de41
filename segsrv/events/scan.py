"""What a body's bytes say before they are parsed: which write keys it names, how much JSON it is.

Parsing takes many times a body's size in memory and milliseconds in one piece. Both are for bodies
that somebody with a write key sent, and that are not too much.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

from segsrv.errors import BadRequest
from segsrv.events.tolerant import BYTE_ORDER_MARK

WRITE_KEYS_MAX = 2_501
"""One for a batch and one for each of its items, where it has as many as it may by default."""
PIECE_BYTES = 64 << 10
ENDS_BYTES = 256
SEARCHED_BYTES = 256 << 10
"""At once, for names with escapes; of `\\u007` over and over that takes about a millisecond."""

_NAME = b'"writeKey"'
# Any of the name's letters may be written as an escape; an escape of another letter is none of it.
_ESCAPED_LETTER = re.compile(rb"\\u00(?:7[2479]|6[59]|4[bB])")
_ESCAPED_LETTER_BYTES = len(rb"\u0077")
_ESCAPED_NAME = re.compile(
    rb'"' + b"".join(rb"(?:%c|\\u00%02x)" % (letter, letter) for letter in b"writeKey") + rb'"',
    re.IGNORECASE,
)
_ESCAPED_NAME_BYTES_MAX = len(b'"') * 2 + 6 * len(b"writeKey")
_TO_TEXT = re.compile(rb'[ \t\r\n]*+:[ \t\r\n]*+"')
_REST_OF_TEXT = re.compile(rb'((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_SPACE = b" \t\r\n"


def write_key_texts(body: bytes, *, key_bytes_max: int) -> Iterator[str | None]:
    """Yield the texts that follow the name `writeKey` anywhere in *body*, the last one first.

    Most SDKs end a body with its key. Whether a text stands where a key may stand is for the parser
    to say. An empty text stands for one that is no text of up to *key_bytes_max*; what is found
    beyond WRITE_KEYS_MAX places is left out. None is no text, but a good moment for a pause.
    """
    last = body.rfind(_NAME)
    if last >= 0:
        yield from _text_after(body, last + len(_NAME), key_bytes_max)
    place = -1
    for _ in range(WRITE_KEYS_MAX):
        place = body.find(_NAME, place + 1)
        if place < 0 or place == last:
            break
        yield from _text_after(body, place + len(_NAME), key_bytes_max)
    end = 0
    for letter, _ in zip(_escaped_letters(body), range(WRITE_KEYS_MAX), strict=False):
        if letter is None:
            yield None
        elif letter >= end and (name := _escaped_name(body, letter)) is not None:
            end = name.end()
            yield from _text_after(body, end, key_bytes_max)


def _escaped_letters(body: bytes) -> Iterator[int | None]:
    """Yield where a letter of the name is written as an escape, and None after each part."""
    for start in range(0, len(body), SEARCHED_BYTES):
        end = start + SEARCHED_BYTES + _ESCAPED_LETTER_BYTES - 1
        for found in _ESCAPED_LETTER.finditer(body, start, end):
            yield found.start()
        yield None


def _escaped_name(body: bytes, letter: int) -> re.Match[bytes] | None:
    quote = body.rfind(b'"', max(0, letter - _ESCAPED_NAME_BYTES_MAX), letter)
    return _ESCAPED_NAME.match(body, quote) if quote >= 0 else None


def _text_after(body: bytes, place: int, bytes_max: int) -> Iterator[str]:
    colon = _TO_TEXT.match(body, place)
    if colon is None:
        return
    start = colon.end()
    # A character takes at most six bytes, as an escape.
    text = _REST_OF_TEXT.match(body, start, start + 6 * bytes_max + 1)
    if text is None:
        yield ""
    elif text[1]:
        try:
            yield orjson.loads(b'"%b"' % text[1])
        except orjson.JSONDecodeError:
            yield ""


def check_ends(body: bytes) -> None:
    """Refuse a body that begins or ends as no JSON object does.

    For bodies without a key, which are not parsed. One that was cut short has lost its key, as most
    SDKs write that last, and some would send it for ever if that were the answer.

    Raises:
        BadRequest: It is not whole.

    """
    begin = body[:ENDS_BYTES].removeprefix(BYTE_ORDER_MARK).lstrip(_SPACE)[:1]
    end = body[-ENDS_BYTES:].rstrip(_SPACE)[-1:]
    if begin not in (b"{", b"[") or end not in (b"}", b"]"):
        raise BadRequest(
            "not valid JSON: the body does not begin and end as an object does", code="invalid_json"
        )


def few_values_bytes(values_max: int) -> int:
    """Return of how many bytes no body has more than *values_max* JSON values."""
    # A value takes a byte, and another to keep it apart from the next.
    return 2 * values_max


def has_few_values(body: bytes, values_max: int) -> bool:
    """Say at once of most bodies that they have no more than *values_max* JSON values."""
    return len(body) <= few_values_bytes(values_max) or (
        body.count(b",") + body.count(b"[") + body.count(b"{") < values_max
    )


def check_values(body: bytes, values_max: int) -> Iterator[None]:
    """Count the JSON values of *body*, piece by piece, and end as soon as there are too many.

    A quick count of what separates values, in texts too, decides for most bodies that there are few
    enough; only above it are they counted exactly. Object names are no values.

    Raises:
        BadRequest: There are more than *values_max*.

    """
    if has_few_values(body, values_max):
        return
    yield
    for count in _counts(body):
        if count > values_max:
            raise BadRequest(
                f"the body has more than {values_max} JSON values, which is the limit",
                code="too_many_values",
            )
        yield


def _counts(body: bytes) -> Iterator[int]:
    """Yield how many values have begun, after each piece of *body*.

    A value is the first in its array or object, or follows a comma; so there are as many as commas
    and containers that are not empty, and one for the whole.
    """
    count = 1
    is_in_text = is_escaped = False
    before = b""
    for start in range(0, len(body), PIECE_BYTES):
        piece = body[start + is_escaped : start + PIECE_BYTES]
        # Backslashes stand in texts only. Without pairs of them, one before a quote escapes it.
        if b"\\" in piece:
            piece = piece.replace(rb"\\", b"").replace(rb"\"", b"")
        is_escaped = piece.endswith(b"\\")
        parts = piece.split(b'"')
        # A zero stands for each text, so that an array of one is not taken for an empty one.
        outside = b"0".join(parts[is_in_text::2])
        is_in_text ^= len(parts) % 2 == 0
        if is_in_text:
            outside += b"0"
        outside = before + outside.translate(None, _SPACE)
        count += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        count -= outside.count(b"[]") + outside.count(b"{}")
        # Whether what opens at the end of a piece is empty, the next piece tells, and counts it.
        before = outside[-1:] if outside.endswith((b"[", b"{")) else b""
        count -= len(before)
        yield count
