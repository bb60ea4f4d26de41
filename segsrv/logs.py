"""Log lines on stderr: quiet, one line each, tracebacks included, in one of three formats.

`text` is logfmt with all that a line says in one field, as people read it. In `logfmt` and `json`
each value is a field: a call such as

    logger.error("sink: rejected sink=%s events=%d error=%s", ...)

has the message `sink: rejected` and the fields `sink`, `events` and `error`. They are found in the
template, so what a client sends in a value can't add another. A value that ends the template after
a colon is the field `detail`; others that have no name stay in the message.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from segsrv.settings import LogFormat

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+")
_VALUE = r"%[-#0 +]*\d*(?:\.\d+)?[diouxXeEfFgGcrsa]"
_PARTS = re.compile(rf" ?(?<![\w%])(?P<name>[a-z_][a-z0-9_]*)=(?P<named>{_VALUE})|{_VALUE}|%%|%")
_NUMBERS = "diufFeEgG"
_OWN = ("time", "level", "logger", "msg", "detail", "trace")
TEMPLATES_MAX = 1_024
"""Those of segsrv are fewer; other libraries may make a new one for each line."""

Value = str | int | float


class _Template(NamedTuple):
    """A message's text with what is left of the values in it, and its fields.

    `text` is None where the values can't be told apart. `indexes` says which of the record's values
    go into `text`, and `fields` has the name, the conversion and the index of each of the others.
    """

    text: str | None
    indexes: tuple[int, ...] = ()
    fields: tuple[tuple[str, str, int], ...] = ()


class LineFormatter(logging.Formatter):
    """Formats a record as one line of logfmt; what is not plain text is quoted as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        return _logfmt(self.fields(record))

    def fields(self, record: logging.LogRecord) -> dict[str, Value]:
        """Return what the line says, in order."""
        fields = _head(record)
        fields["message"] = record.getMessage()
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return fields


class FieldsFormatter(LineFormatter):
    """Formats a record as one line of logfmt, with a field for each value."""

    def fields(self, record: logging.LogRecord) -> dict[str, Value]:
        fields = _head(record)
        try:
            fields |= _said(record)
        except Exception as error:  # noqa: BLE001 - of other libraries' lines too, one is written.
            fields["msg"] = f"{record.msg} (its values don't fit: {error})"
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return {name: _whole(value) for name, value in fields.items()}


class JsonFormatter(FieldsFormatter):
    """Formats a record as one JSON object in ASCII, whatever stderr is set to."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record))


_FORMATTERS: Mapping[LogFormat, type[LineFormatter]] = {
    "text": LineFormatter,
    "logfmt": FieldsFormatter,
    "json": JsonFormatter,
}


def configure(level: str, line_format: LogFormat = "text") -> None:
    """Send this process's log lines to stderr, from *level* up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMATTERS[line_format]())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # aiohttp logs a traceback for each request that is no HTTP; anybody could fill the log.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def _head(record: logging.LogRecord) -> dict[str, Value]:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return {
        "time": f"{stamp}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
    }


def _said(record: logging.LogRecord) -> dict[str, Value]:
    """Return the message, and what it says beside its fixed part.

    Raises:
        Exception: The values don't fit the message, or can't be put into words.

    """
    values = record.args
    if not values or not isinstance(record.msg, str) or not isinstance(values, tuple):
        return {"msg": record.getMessage()}
    template = _parsed(record.msg)
    if template.text is None or len(values) != len(template.indexes) + len(template.fields):
        return {"msg": record.getMessage()}
    said: dict[str, Value] = {"msg": template.text % tuple(values[at] for at in template.indexes)}
    return said | {name: _value(how, values[at]) for name, how, at in template.fields}


@lru_cache(TEMPLATES_MAX)
def _parsed(template: str) -> _Template:
    text, indexes, count = "", [], 0
    fields: list[tuple[str, str, int]] = []
    end = 0
    for part in _PARTS.finditer(template):
        text += template[end : part.start()]
        end = part.end()
        if part[0] == "%":
            # Widths that are values themselves, or values by name.
            return _Template(None)
        if part[0] == "%%":
            text += "%%"
            continue
        if part["name"] is None:
            text += part[0]
            indexes.append(count)
        else:
            known = {*_OWN, *(name for name, _how, _at in fields)}
            name = part["name"]
            while name in known:
                name += "_"
            fields.append((name, part["named"], count))
        count += 1
    text += template[end:]
    if len(text) > len(": %s") and text.endswith(": %s"):
        text = text.removesuffix(": %s")
        fields.append(("detail", "%s", indexes.pop()))
    return _Template(text.strip(), tuple(indexes), tuple(fields))


def _value(how: str, value: Any) -> Value:
    """Return *value* as the conversion *how* shows it; as a number, if it is one."""
    shown: str = how % value
    if how[-1] in _NUMBERS and isinstance(value, int | float):
        try:
            return int(shown)
        except ValueError:
            number = float(shown)
            return number if math.isfinite(number) else shown
    return shown


def _whole(value: Value) -> Value:
    """Return text that every reader of UTF-8 takes: half a character is shown as its code."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _logfmt(fields: Mapping[str, Value]) -> str:
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in fields.items())


def _quoted(text: str) -> str:
    if text and _PLAIN.issuperset(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    # Clients' text may be in a line: what would move a terminal's cursor is escaped too.
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in quoted)
