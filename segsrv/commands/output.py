"""What commands print: tables for people, JSON for scripts, bars for those who wait."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self, TextIO

import orjson
from tqdm import tqdm

_HIDDEN = "-"
_STEPS = ("B", "KB", "MB", "GB", "TB")
_TEXT = re.compile(r"[^\n]+")


class Bar:
    """A progress bar on stderr, only where that is a terminal."""

    def __init__(self, what: str, total: int, *, unit: str = "B") -> None:
        self._bar = tqdm(
            total=total,
            desc=what,
            unit=unit,
            unit_scale=True,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        self._bar.update(count)

    def tell(self, events: int) -> None:
        """Show how many events were done so far, and how many a second."""
        if self._bar.disable:
            return
        elapsed_s = self._bar.format_dict["elapsed"]
        per_s = events / elapsed_s if elapsed_s else 0.0
        # Drawn when the bar is next, a few times a second.
        self._bar.set_postfix_str(f"{counted(events, 'event')}, {per_s:,.0f}/s", refresh=False)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print aligned columns: texts to the left, numbers to the right, None as a dash."""
    texts = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *texts, strict=True)]
    is_number = [
        all(isinstance(row[index], int | float | None) for row in rows)
        for index in range(len(headers))
    ]
    for row in [[header.upper() for header in headers], *texts]:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, is_number, strict=True)
        ]
        print("  ".join(cells).rstrip())


def print_json(value: Any, file: TextIO | None = None) -> None:
    """Print *value* on one line, to standard output unless *file* is given."""
    print(orjson.dumps(value).decode(), file=file)


def print_pretty(value: Mapping[str, Any]) -> None:
    """Print *value* over several lines, with nothing that a terminal would act on."""
    print(harmless(json.dumps(value, indent=2, ensure_ascii=False)))


def harmless(text: str) -> str:
    """Return *text* with what a terminal would act on escaped as JSON does it."""
    return _TEXT.sub(lambda match: _escaped(match[0]), text)


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return json.dumps(char)[1:-1] if char > "\x7f" else f"\\u{ord(char):04x}"


def _cell(value: Any) -> str:
    if value is None or value == "":
        return _HIDDEN
    return harmless(str(value)).replace("\n", " ")


def size(count: int) -> str:
    """Return *count* bytes for people: `1.5 MB`."""
    value, step = float(count), 0
    while value >= 999.5 and step < len(_STEPS) - 1:
        value, step = value / 1000, step + 1
    return f"{count} B" if step == 0 else f"{value:.3g} {_STEPS[step]}"


def counted(count: int, noun: str) -> str:
    """Return `1 event`, `2 events`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def moment(time_ms: int | None) -> str | None:
    """Return a time in UTC as RFC 3339; None if it is not known."""
    if not time_ms:
        return None
    return f"{datetime.fromtimestamp(time_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
