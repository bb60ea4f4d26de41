r"""Mends what strict JSON forbids and SDKs send: NaN, Infinity, lone surrogates, odd bytes.

Numbers that JSON can't hold become null, and characters that UTF-8 can't hold become U+FFFD.
Python SDKs write a bare `NaN` (json.dumps), and Node, browsers and Python write `\ud800`.

The bytes are mended, not read: what is read afterwards is read strictly, so that a number means the
same whether or not another one in the body had to be mended.
"""

from __future__ import annotations

import math
import re

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# Possessive throughout, and matched from where the last match ended, never searched for: a body
# can't make either pattern look at a byte twice.
_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_FINITE = rb"-?\d[\d.]{0,199}+(?:[eE][-+]?\d{1,2})?+(?![\d.eE+-])"
_TO_ODD_NUMBER = re.compile(
    rb'((?:[^"NI\d-]++|' + _TEXT + rb"|" + _FINITE + rb")*+)(NaN|-?Infinity|-?\d[\d.eE+-]*+)",
    re.DOTALL,
)
_TO_LONE_SURROGATE = re.compile(
    rb"((?:[^\\]++|\\(?:[^u]|u(?![dD][89a-fA-F])"
    rb"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*+)"
    rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}",
    re.DOTALL,
)


def mended(body: bytes) -> bytes:
    """Return *body* with what strict JSON forbids replaced; it need not be JSON at all."""
    body = body.removeprefix(BYTE_ORDER_MARK)
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode(errors="replace").encode()
    return _without_lone_surrogates(_without_odd_numbers(body))


def _without_odd_numbers(body: bytes) -> bytes:
    parts: list[bytes] = []
    position = 0
    while (found := _TO_ODD_NUMBER.match(body, position)) is not None:
        before, number = found.groups()
        parts += (before, number if _is_finite(number) else b"null")
        position = found.end()
    return b"".join((*parts, body[position:]))


def _without_lone_surrogates(body: bytes) -> bytes:
    parts: list[bytes] = []
    position = 0
    while (found := _TO_LONE_SURROGATE.match(body, position)) is not None:
        parts += (found[1], rb"\ufffd")
        position = found.end()
    return b"".join((*parts, body[position:]))


def _is_finite(number: bytes) -> bool:
    if number.endswith((b"N", b"y")):
        return False
    try:
        return math.isfinite(float(number))
    except ValueError:
        # No number: the strict reading says so, and where.
        return True
