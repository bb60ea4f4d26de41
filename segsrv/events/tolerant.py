r"""Mends what strict JSON forbids and SDKs send: NaN, Infinity, lone surrogates, odd bytes.

Numbers that JSON can't hold become null, and characters that UTF-8 can't hold become U+FFFD.
Python SDKs write a bare `NaN` (json.dumps), and Node, browsers and Python write `\ud800`.

The bytes are mended, not read: what is read afterwards is read strictly, so that a number means the
same whether or not another one in the body had to be mended.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PARTS_AT_ONCE = 2_000
"""About a millisecond's work."""

# Possessive throughout, and matched from where the last match ended, never searched for: a body
# can't make either pattern look at a byte twice.
_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_FINITE = rb"-?\d[\d.]{0,199}+(?:[eE][-+]?\d{1,2})?+(?![\d.eE+-])"
_TO_ODD_NUMBER = re.compile(
    rb'((?:[^"NI\d-]++|' + _TEXT + rb"|" + _FINITE + rb")*+)(NaN|-?Infinity|-?\d[\d.eE+-]*+)",
    re.DOTALL,
)
_NUMBER = re.compile(rb"-?(?:0|[1-9]\d*+)(?:\.\d++)?+(?:[eE][-+]?\d++)?+")
_TO_LONE_SURROGATE = re.compile(
    rb"((?:[^\\]++|\\(?:[^u]|u(?![dD][89a-fA-F])"
    rb"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*+)"
    rb"(\\u[dD][89a-fA-F][0-9a-fA-F]{2})",
    re.DOTALL,
)


def mended(body: bytes) -> Generator[None, None, bytes]:
    """Return *body* with what strict JSON forbids replaced; it need not be JSON at all.

    What is replaced can be a quarter of the body's bytes, so there is a step for every few of them.
    """
    body = body.removeprefix(BYTE_ORDER_MARK)
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode(errors="replace").encode()
    yield
    body = yield from _replaced(body, _TO_ODD_NUMBER, _finite_or_null)
    return (yield from _replaced(body, _TO_LONE_SURROGATE, lambda _escape: rb"\ufffd"))


def _replaced(
    body: bytes, pattern: re.Pattern[bytes], mend: Callable[[bytes], bytes]
) -> Generator[None, None, bytes]:
    """Return *body* with the second group of each match replaced by what *mend* makes of it."""
    parts: list[bytes] = []
    position = 0
    while (found := pattern.match(body, position)) is not None:
        before, odd = found.groups()
        parts += (before, mend(odd))
        position = found.end()
        if len(parts) % PARTS_AT_ONCE == 0:
            yield
    return b"".join((*parts, body[position:]))


def _finite_or_null(number: bytes) -> bytes:
    return number if _is_finite(number) else b"null"


def _is_finite(number: bytes) -> bool:
    if number.endswith((b"N", b"y")):
        return False
    # What is no number of JSON's, such as 01e999, is for the strict reading to refuse.
    return _NUMBER.fullmatch(number) is None or math.isfinite(float(number))
