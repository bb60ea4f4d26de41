"""The kinds of values that settings have: each takes a value, reads a text, or refuses by name."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segsrv.errors import SettingsError

SHOWN_CHARS_MAX = 100
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_LABEL = re.compile(r"[\w.-]{1,64}")
_NOT_IN_TEXT = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode's categories of control characters, of bytes that were no UTF-8, and of line ends."""


class UnfitError(Exception):
    """A value is none of a kind; the one who knows the setting's name says so."""


class Kind:
    """A type of settings; `expected` says in words what it wants."""

    metavar = "TEXT"
    takes_text = True
    is_list = False
    is_secret = False
    choices: tuple[str, ...] = ()
    expected = "nothing"

    def take(self, value: Any, where: str) -> Any:
        """Return *value* as the setting *where* keeps it.

        Raises:
            SettingsError: It can't; the message names *where*, the value and what is expected.

        """
        try:
            return self._convert(value)
        except (UnfitError, ValueError):
            raise self._refusal(where, repr(value)) from None

    def read(self, text: str, where: str) -> Any:
        """Return what the text of a flag or a variable means; raises what `take` raises."""
        try:
            return self._convert(self._parse(text))
        except (UnfitError, ValueError):
            shown = text if text.isprintable() else repr(text)
            raise self._refusal(where, shown) from None

    def _convert(self, value: Any) -> Any:
        """Return a value of this kind, or raise UnfitError or ValueError."""
        raise NotImplementedError

    def _parse(self, text: str) -> Any:
        """Return what `_convert` takes, or raise UnfitError or ValueError."""
        return text

    def _refusal(self, where: str, shown: str | None = None) -> SettingsError:
        given = "" if self.is_secret or shown is None else f"={_clipped(shown)}"
        return SettingsError(f"{where}{given}: expected {self.expected}")


class Truth(Kind):
    metavar = "true|false"
    expected = "true or false"

    def _convert(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise UnfitError
        return value

    def _parse(self, text: str) -> bool:
        if (value := _WORDS.get(text.lower())) is None:
            raise UnfitError
        return value


class Number(Kind):
    def __init__(self, number: type[int | float], low: float | None, high: float | None) -> None:
        self.metavar = "N" if number is int else "SECONDS"
        self.expected = "a whole number" if number is int else "a number"
        if low is not None and high is not None:
            self.expected += f" from {low} to {high}"
        self._number = number
        self._low = -sys.float_info.max if low is None else low
        self._high = sys.float_info.max if high is None else high

    def _convert(self, value: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, (int, self._number)):
            raise UnfitError
        # Before it is converted: a whole number may be too large for a float. NaN is in no range.
        if not self._low <= value <= self._high:
            raise UnfitError
        return self._number(value)

    def _parse(self, text: str) -> int | float:
        # Python would also take the digits of other scripts.
        if not text.isascii():
            raise UnfitError
        return self._number(text)


class Text(Kind):
    def __init__(self, *, may_be_empty: bool = False, is_secret: bool = False) -> None:
        self.is_secret = is_secret
        self._may_be_empty = may_be_empty
        self.expected = "text without control characters"
        if not may_be_empty:
            self.expected = "text, neither empty nor with control characters"

    def _convert(self, value: Any) -> str:
        if not isinstance(value, str) or not (self._may_be_empty or value.strip()):
            raise UnfitError
        if any(unicodedata.category(character) in _NOT_IN_TEXT for character in value):
            raise UnfitError
        # Not `str(value)`: that is another text for an enum's member.
        return str.__str__(value)


class FilePath(Text):
    metavar = "PATH"

    def __init__(self) -> None:
        super().__init__()
        self.expected = "a path, neither empty nor with control characters"

    def _convert(self, value: Any) -> Path:  # type: ignore[override]
        return Path(super()._convert(str(value) if isinstance(value, Path) else value))


class Choice(Kind):
    def __init__(self, words: tuple[str, ...]) -> None:
        self.choices = words
        self.metavar = "|".join(words)
        self.expected = f"one of {', '.join(words)}"

    def _convert(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.choices:
            raise UnfitError
        return self.choices[self.choices.index(value)]


class Json(Kind):
    """Any value that JSON can hold, and the dates of TOML, which become text."""

    takes_text = False
    is_secret = True
    expected = "what JSON can hold"

    def _convert(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            if not all(isinstance(name, str) for name in value):
                raise UnfitError
            return {_plain(name): self._convert(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._convert(item) for item in value]
        return _plain(value)


class Maybe(Kind):
    """Another kind, or None for a setting that is not given."""

    def __init__(self, inner: Kind) -> None:
        self.metavar, self.expected = inner.metavar, inner.expected
        self.choices, self.is_secret = inner.choices, inner.is_secret
        self.takes_text = inner.takes_text
        self._inner = inner

    def take(self, value: Any, where: str) -> Any:
        return None if value is None else self._inner.take(value, where)

    def read(self, text: str, where: str) -> Any:
        return self._inner.read(text, where)


class List(Kind):
    """A list, kept as a tuple. One text is none: its letters would be the items."""

    is_list = True

    def __init__(self, inner: Kind, name: str) -> None:
        self.metavar, self.is_secret = inner.metavar, inner.is_secret
        self.takes_text = inner.takes_text
        self.expected = f"a list, each {inner.expected}"
        if isinstance(inner, Table):
            self.expected = f"[[{name}]] tables, each {inner.expected}"
        self._inner = inner

    def take(self, value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise self._refusal(where, repr(value))
        if not isinstance(self._inner, Table):
            return tuple(self._inner.take(item, where) for item in value)
        return tuple(
            self._inner.take(item, f"{where}.{self._inner.label(item, number)}")
            for number, item in enumerate(value, 1)
        )

    def read(self, text: str, where: str) -> Any:
        raise self._refusal(where, text)

    def read_all(self, texts: Iterable[str], where: str) -> tuple[Any, ...]:
        """Return what the texts of a repeated flag or of a variable mean, item by item."""
        return tuple(self._inner.read(text, where) for text in texts)


class Table(Kind):
    """A dataclass: a table of TOML, a mapping, or an instance that was built by hand."""

    takes_text = False
    is_secret = True

    def __init__(self, cls: type, kinds: Mapping[str, Kind]) -> None:
        self._cls = cls
        self._kinds = kinds
        self._required = [
            spec.name
            for spec in dataclasses.fields(cls)
            if spec.default is spec.default_factory is dataclasses.MISSING
        ]
        self.expected = f"a table of {', '.join(self._kinds)}"

    def label(self, value: Any, number: int) -> str:
        """Say which table of a list *value* is: by its id or name, or by its number from 1."""
        name = value.get("id", value.get("name")) if isinstance(value, Mapping) else None
        return name if isinstance(name, str) and _LABEL.fullmatch(name) else str(number)

    def take(self, value: Any, where: str) -> Any:
        if isinstance(value, self._cls):
            return value
        if not isinstance(value, Mapping):
            raise self._refusal(where)
        for name in value:
            if name not in self._kinds:
                raise SettingsError(f"{where}.{_clipped(str(name))}: there is no such setting")
        for name in self._required:
            if name not in value:
                raise SettingsError(f"{where}.{name}: is missing")
        return self._cls(
            **{
                name: self._kinds[name].take(item, f"{where}.{name}")
                for name, item in value.items()
            }
        )


class Names(Kind):
    """A table whose names are the operator's own; all its values are of one kind."""

    takes_text = False
    is_secret = True

    def __init__(self, inner: Kind) -> None:
        self._inner = inner
        self.expected = "a table"
        if not isinstance(inner, Json):
            self.expected += f", each value {inner.expected}"

    def take(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self._refusal(where)
        text = Text()
        return {
            text.take(name, f"{where}: a name"): self._inner.take(item, f"{where}.{name}")
            for name, item in value.items()
        }


def _plain(value: Any) -> Any:
    """Return *value* if JSON has it and it is no list or object; raise UnfitError if not."""
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    is_number = isinstance(value, int) and -(1 << 63) <= value < 1 << 64
    is_number = is_number or (isinstance(value, float) and math.isfinite(value))
    if is_number or value is None:
        return value
    if not isinstance(value, str):
        raise UnfitError
    value.encode()  # A lone surrogate is a UnicodeEncodeError, which is a ValueError.
    return str.__str__(value)


def _clipped(text: str) -> str:
    line = " ".join(text.splitlines())
    return line if len(line) <= SHOWN_CHARS_MAX else line[:SHOWN_CHARS_MAX] + "…"
