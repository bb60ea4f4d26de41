"""What an error of ClickHouse means for a batch: later, not as configured, or never.

Decided by the server's own codes (`src/Common/ErrorCodes.cpp` there), which are stable. An answer
without one is not ClickHouse's but a proxy's.
"""

from __future__ import annotations

import re

from segsrv.errors import SegsrvError, SinkMisconfigured, SinkRejected, SinkUnavailable

TEXT_CHARS_MAX = 400
_CODE = re.compile(r"Code: (\d+)")
_VIOLATED_ROW = re.compile(r"\bis violated at row (\d+)\b")
_NOTE = re.compile(
    r": while pushing to view (?=(?P<view>[^\s(]+))|\(at row (?P<row>\d+)\)\s*: While executing "
)
"""What the server adds to a text where a view or the parser failed, behind what is quoted."""
_NO_VALUE = re.compile(r"(?:[^'\"`]|`[^`]*`)*")
"""Text without quotation marks, but in names."""
_HEAD = re.compile(r"^(Code: \d+[.,]? ?(e\.displayText\(\) = )?(DB::Exception: )?)+")
_TAIL = re.compile(r"Expression:|\n|, Stack|, e\.what|\(version ")
"""Behind it nothing helps, or events are quoted."""
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]+)\)")
_PLACE = re.compile(
    r"while read(?:ing)? the value of key [^()\n]+"
    r"|while executing 'FUNCTION (?:(?!while executing|->).){1,200}",
    re.IGNORECASE,
)

_WHO = {192, 193, 194, 516}
_RIGHTS = {164, 291, 497}
_STRUCTURE = {8, 10, 16, 47, 390}
"""No such column, as after the table was altered."""
_SETTINGS = {36, 46, 48, 62, 89, 115, 140, 452, 472, 606, 698}
_REFUSED = {
    *(6, 25, 26, 27, 38, 41, 53, 69, 70, 72, 117, 128, 130, 131, 153, 190, 321, 349),
    *(376, 395, 407, 441, 457, 467, 469, 601, 675, 676, 691, 692),
}
"""A value can't be read or converted, or a constraint of the table is violated."""
VIOLATED_CONSTRAINT = 469
_QUOTING = _REFUSED - {VIOLATED_CONSTRAINT}
"""Their texts quote the value, which is nothing for a log."""


class MissingTable(SinkMisconfigured):
    """There is no such table in the database."""


def error_of(status: int, code: int, body: str, *, may_reject: bool = False) -> SegsrvError:
    """Return what an answer means that is no success; *code* is 0 where its header is missing.

    With *may_reject* it is the answer to events in one block, of which nothing is stored where a
    value is refused.
    """
    if not code and (found := _CODE.match(body)):
        code = int(found[1])
    if not code:
        return _of_a_proxy(status)
    words = _place(body) if code in _QUOTING else _first_words(body)
    text = f"{words} (code {code})"
    if code in _WHO:
        return SinkMisconfigured(f"wrong user or password: code {code}")
    if code in _RIGHTS:
        return SinkMisconfigured(f"missing right: {text}")
    if code in {60, 218}:
        return MissingTable(f"missing table: {text}")
    if code == 81:
        return SinkMisconfigured(f"missing database: {text}")
    if code in _STRUCTURE:
        return SinkMisconfigured(f"the table does not fit: {text}")
    note = _note(body)
    if note and note["view"]:
        # The table itself may hold the events already: they must come again under the same token.
        return SinkMisconfigured(f"a materialized view of the table fails: {text}")
    if code in _SETTINGS:
        return SinkMisconfigured(f"not accepted: {text}")
    if code in _REFUSED:
        if not may_reject:
            return SinkMisconfigured(f"not accepted: {text}")
        row = _row(code, body, note)
        return SinkRejected(f"refused: {text}", indexes=[row - 1] if row else [])
    return SinkUnavailable(text)


def _of_a_proxy(status: int) -> SegsrvError:
    if status == 413:
        return SinkMisconfigured(
            "answered 413, and not by ClickHouse: a proxy takes no bodies so large; "
            "lower batch_bytes_max or raise its limit"
        )
    text = f"answered {status}, and not by ClickHouse"
    if status in {408, 425, 429} or status >= 500:
        return SinkUnavailable(text)
    return SinkMisconfigured(text)


def _first_words(body: str) -> str:
    text = _HEAD.sub("", body.strip())
    if end := _TAIL.search(text):
        text = text[: end.start()]
    return text.strip().rstrip(":.,")[:TEXT_CHARS_MAX] or "no reason given"


def _note(body: str) -> re.Match[str] | None:
    """Return what the server added last about where it failed.

    A text may quote a value, and a value may look like such a note. Its own stand behind all that
    is quoted, so no quotation ends behind the last of them.
    """
    last = next(reversed([*_NOTE.finditer(body)]), None)
    return last if last and _NO_VALUE.fullmatch(body, last.end()) else None


def _row(code: int, body: str, note: re.Match[str] | None) -> int:
    """Return the number of the refused row, from 1 on; 0 where it is not known for sure."""
    if code == VIOLATED_CONSTRAINT:
        # Said before the values are.
        found = _VIOLATED_ROW.search(body)
        return int(found[1]) if found else 0
    return int(note["row"]) if note else 0


def _place(body: str) -> str:
    """Return what failed and where, without the value that did."""
    names = _NAME.findall(body)
    places = _PLACE.findall(body)[-1:]
    if (note := _note(body)) and note["view"]:
        places.append(f"while pushing to view {note['view']}")
    return " ".join([*(names[-1:] or ["a value can't be read"]), *places])[:TEXT_CHARS_MAX].strip()
