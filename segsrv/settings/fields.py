"""Declares settings as fields of dataclasses, and resolves the types of those to kinds.

Types are resolved when the module of a table is imported, so one that is not known here fails there
and not at the first value that somebody gives. `option` declares a field, `table` resolves a
dataclass, and `settle` in its `__post_init__` converts or refuses every value, whoever builds it.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from segsrv.errors import SettingsError
from segsrv.settings.kinds import (
    Choice,
    FilePath,
    Json,
    Kind,
    List,
    Maybe,
    Names,
    Number,
    Table,
    Text,
    Truth,
)

T = TypeVar("T")
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_RESOLVED: dict[type, dict[str, Kind]] = {}


def option(
    default: Any,
    help_text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    is_secret: bool = False,
) -> Any:
    """Declare a setting with its help and, for numbers, the inclusive range that is allowed.

    The value of a secret one is in no message and no `repr`.
    """
    metadata = {"help": help_text, "low": low, "high": high, "is_secret": is_secret}
    return dataclasses.field(default=default, repr=not is_secret, metadata=metadata)


def required(help_text: str, *, is_secret: bool = False) -> Any:
    """Declare a setting that a table can't do without."""
    metadata = {"help": help_text, "is_secret": is_secret}
    return dataclasses.field(repr=not is_secret, metadata=metadata)


def table(cls: type[T]) -> type[T]:
    """Resolve the fields of a dataclass, which is then a type for fields of others.

    Raises:
        TypeError: A field is of a type that no setting can have, or has a range and is no number.
        SettingsError: A default is not what the field's type and range allow.

    """
    for name, kind in kinds_of(cls).items():
        default = cls.__dataclass_fields__[name].default  # type: ignore[attr-defined]
        if default is not dataclasses.MISSING:
            kind.take(default, name)
    return cls


def kinds_of(cls: type) -> dict[str, Kind]:
    """Return the kind of each field of a dataclass."""
    if cls not in _RESOLVED:
        hints = typing.get_type_hints(cls)
        _RESOLVED[cls] = {
            spec.name: _kind_of_field(cls, spec, hints) for spec in dataclasses.fields(cls)
        }
    return _RESOLVED[cls]


def settle(instance: Any, where: str = "") -> None:
    """Convert every field of a dataclass that was just built; *where* stands before their names.

    Raises:
        SettingsError: A value is none of its field's kind.

    """
    for name, kind in kinds_of(type(instance)).items():
        value = kind.take(getattr(instance, name), where + name)
        # The only moment at which a frozen instance is not yet anybody's.
        object.__setattr__(instance, name, value)


def check_function(value: str, where: str) -> None:
    """Refuse what can't name a function; whether there is one is found out where it runs.

    Raises:
        SettingsError: It is not empty, and no `package.module:function`.

    """
    if value and not _FUNCTION.fullmatch(value):
        raise SettingsError(f"{where}={value[:200]}: expected package.module:function")


def _kind_of_field(cls: type, spec: dataclasses.Field[Any], hints: Mapping[str, Any]) -> Kind:
    try:
        return _kind_of(hints[spec.name], spec)
    except TypeError as error:
        raise TypeError(f"{cls.__name__}.{spec.name}: {error}") from None


def _kind_of(hint: Any, spec: dataclasses.Field[Any]) -> Kind:
    low, high = spec.metadata.get("low"), spec.metadata.get("high")
    is_secret = bool(spec.metadata.get("is_secret"))
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        others = [part for part in parts if part is not types.NoneType]
        if len(others) == 1:
            inner = _kind_of(others[0], spec)
            if inner.is_list:
                raise TypeError("a list is empty, not None")
            return Maybe(inner)
    if origin is tuple and len(parts) == 2 and parts[1] is ...:
        return List(_kind_of(parts[0], spec), spec.name)
    if hint in (int, float):
        if (low is None) != (high is None):
            raise TypeError("a range has both ends, low and high")
        return Number(hint, low, high)
    if low is not None or high is not None:
        raise TypeError("only numbers have a range, low and high")
    if origin is Literal and all(isinstance(part, str) for part in parts):
        return Choice(parts)
    if origin is dict and parts[0] is str:
        return Names(_kind_of(parts[1], spec))
    if hint is str:
        return Text(may_be_empty=spec.default == "", is_secret=is_secret)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return Table(hint, kinds_of(hint))
    simple: dict[Any, type[Kind]] = {bool: Truth, Path: FilePath, Any: Json}
    if hint not in simple:
        raise TypeError(f"no setting can be of type {hint}")
    return simple[hint]()
