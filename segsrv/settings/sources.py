"""Reads settings from flags, the environment and a TOML file; flag over environment over file."""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segsrv.errors import SettingsError
from segsrv.settings.model import Key, Settings, choices

ENV_PREFIX = "SEGSRV_"
CONFIG_ENV = "SEGSRV_CONFIG"
_FIELDS = {spec.name: spec for spec in dataclasses.fields(Settings)}
_TOML_ONLY = frozenset(("keys", "integrations"))
_FLAGS = {name: spec for name, spec in _FIELDS.items() if name not in _TOML_ONLY}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give *parser* one flag for each setting, and `--config`."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for name, spec in _FLAGS.items():
        default = spec.default
        parser.add_argument(
            "--" + name.replace("_", "-"),
            dest=name,
            metavar=_metavar(spec),
            action="append" if _is_list(spec) else "store",
            help=f"{spec.metadata['help']}{_again(spec)} (default: {_shown(default)})",
        )


def load(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Merge the three sources into checked Settings.

    Raises:
        SettingsError: A name is unknown or a value is wrong; says where it was found.

    """
    config = flags.get("config") or environ.get(CONFIG_ENV)
    values: dict[str, Any] = _from_file(Path(config)) if config else {}
    values.update(_from_environment(environ))
    for name, spec in _FLAGS.items():
        if flags.get(name) is not None:
            values[name] = _from_text(spec, flags[name], "--" + name.replace("_", "-"))
    return Settings(**values)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable == CONFIG_ENV:
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in _FLAGS or variable != variable.upper():
            raise SettingsError(f"{variable}: there is no such setting")
        spec = _FLAGS[name]
        split = [part.strip() for part in text.split(",") if part.strip()]
        values[name] = _from_text(spec, split if _is_list(spec) else text, variable)
    return values


def _from_file(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    values: dict[str, Any] = {}
    for name, value in table.items():
        spec = _FIELDS.get(name)
        if spec is None:
            raise SettingsError(f"{path}: {name}: there is no such setting")
        where = f"{path}: {name}"
        values[name] = _keys(value, where) if name == "keys" else _from_toml(spec, value, where)
    return values


def _keys(tables: Any, where: str) -> tuple[Key, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"{where}: expected [[keys]] tables with id, secret and origins")
    keys = []
    for table in tables:
        unknown = set(table) - {"id", "secret", "origins"}
        if unknown:
            raise SettingsError(f"{where}: {sorted(unknown)[0]}: there is no such field of a key")
        origins = table.get("origins", [])
        if not all(isinstance(table.get(part), str) and table[part] for part in ("id", "secret")):
            raise SettingsError(f"{where}: a key needs an id and a secret, both non-empty text")
        if not isinstance(origins, list) or not all(isinstance(text, str) for text in origins):
            raise SettingsError(f"{where}: origins must be a list of texts")
        keys.append(Key(id=table["id"], secret=table["secret"], origins=tuple(origins)))
    return tuple(keys)


def _from_toml(spec: dataclasses.Field[Any], value: Any, where: str) -> Any:
    kind = str(spec.type)
    if _is_list(spec):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            # Without the value: it may be a key, or a URL with a password.
            raise SettingsError(f"{where}: expected a list of texts, in square brackets")
        return tuple(Path(item) for item in value) if "Path" in kind else tuple(value)
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind.startswith("dict") and isinstance(value, dict):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "float" and is_number:
        return float(value)
    if kind == "int" and is_number and isinstance(value, int):
        return value
    if kind not in ("int", "float", "bool") and isinstance(value, str):
        return Path(value) if kind.startswith("Path") else value
    raise SettingsError(f"{where}: expected {_expected(spec)}, not {value!r}")


def _from_text(spec: dataclasses.Field[Any], text: Any, where: str) -> Any:
    kind = str(spec.type)
    if _is_list(spec):
        return tuple(Path(item) if "Path" in kind else item for item in text)
    try:
        return _READERS.get(kind, str)(text)
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{where}={text}: expected {_expected(spec)}") from error


def _truth(text: str) -> bool:
    return _WORDS[text.lower()]


_READERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": _truth,
    "Path": Path,
    "Path | None": Path,
}


def _is_list(spec: dataclasses.Field[Any]) -> bool:
    return str(spec.type).startswith("tuple")


def _expected(spec: dataclasses.Field[Any]) -> str:
    words = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(
        str(spec.type), "a table" if str(spec.type).startswith("dict") else "text"
    )
    return f"one of {', '.join(choices(spec))}" if choices(spec) else words


def _metavar(spec: dataclasses.Field[Any]) -> str:
    if choices(spec):
        return "|".join(choices(spec))
    kinds = {"int": "N", "float": "SECONDS", "bool": "true|false", "Path": "PATH"}
    return kinds.get(str(spec.type).removesuffix(" | None"), "TEXT")


def _again(spec: dataclasses.Field[Any]) -> str:
    return "; repeat the flag for more than one" if _is_list(spec) else ""


def _shown(default: Any) -> str:
    if isinstance(default, Sequence) and not isinstance(default, str):
        return " ".join(map(str, default)) or "none"
    return "none" if default in (None, "") else str(default)
