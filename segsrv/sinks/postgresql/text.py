r"""Replaces what JSON may hold and PostgreSQL's text can't: `\u0000` and lone surrogates.

Lines are JSON without raw control characters, so these are free to stand for something.
"""

from __future__ import annotations

import re

_BACKSLASHES = rb"\\"
_MASK = b"\x01\x01"
_NUL = rb"\u0000"
_REPLACEMENT = rb"\ufffd"
_ODD = re.compile(rb"\\u(?:0000|[dD])")
_SURROGATES = re.compile(
    rb"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


def storable(lines: bytes) -> tuple[bytes, int]:
    """Return JSON that PostgreSQL can store, and how many characters became U+FFFD.

    Nearly all are returned as they are. Whole lines are looked at by C alone, as the sender of an
    event decides how many there are to replace.
    """
    # One search for both takes 0.3 µs a kB, one for each of three texts 2 µs, and one for a single
    # byte next to nothing: most lines have no backslash at all.
    if b"\\" not in lines or _ODD.search(lines) is None:
        return lines, 0
    # Behind an escaped backslash, it would be plain text. Escapes are read from the left, and so
    # are these pairs.
    masked = lines.replace(_BACKSLASHES, _MASK)
    count = masked.count(_NUL)
    masked = masked.replace(_NUL, _REPLACEMENT)
    if rb"\ud" in masked or rb"\uD" in masked:
        masked, found = _SURROGATES.subn(lambda match: match[1] or _REPLACEMENT, masked)
        count += found - sum(1 for match in _SURROGATES.finditer(masked) if match[1])
    return (masked.replace(_MASK, _BACKSLASHES) if count else lines), count
