"""Reads settings from flags, the environment and a TOML file; flag over environment over file."""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from segsrv.errors import SettingsError
from segsrv.settings.fields import kinds_of
from segsrv.settings.injected import is_injected
from segsrv.settings.kinds import Kind, List
from segsrv.settings.model import Settings

ENV_PREFIX = "SEGSRV_"
CONFIG_ENV = "SEGSRV_CONFIG"
_KINDS = kinds_of(Settings)
# The others are tables, which only a file can hold.
_FLAGS = {name: kind for name, kind in _KINDS.items() if kind.takes_text}
_SPECS = {spec.name: spec for spec in dataclasses.fields(Settings)}


def add_flags(parser: argparse.ArgumentParser, names: Collection[str] | None = None) -> None:
    """Give *parser* `--config` and one flag for each setting, or for those in *names*."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for name, kind in _FLAGS.items():
        if names is not None and name not in names:
            continue
        spec = _SPECS[name]
        again = "; repeat the flag for more than one" if kind.is_list else ""
        parser.add_argument(
            _flag(name),
            dest=name,
            metavar=kind.metavar,
            action="append" if kind.is_list else "store",
            help=f"{spec.metadata['help']}{again} (default: {_shown(spec.default)})",
        )


def load(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Merge the three sources into checked Settings.

    Raises:
        SettingsError: A name is unknown or a value is wrong; says where it was found.

    """
    path = config_path(flags, environ)
    values: dict[str, Any] = _from_file(path) if path is not None else {}
    values.update(_from_environment(environ))
    for name, kind in _FLAGS.items():
        if flags.get(name) is not None:
            values[name] = _read(kind, flags[name], _flag(name))
    return Settings(**values)


def config_path(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Path | None:
    """Return the file to read; an empty name is no wish for none, but a variable that got lost."""
    for where, text in (("--config", flags.get("config")), (CONFIG_ENV, environ.get(CONFIG_ENV))):
        if text == "":
            raise SettingsError(f"{where}: is empty, expected the name of a TOML file")
        if text is not None:
            return Path(text)
    return None


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable == CONFIG_ENV:
            continue
        if is_injected(variable.removeprefix(ENV_PREFIX), text):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in _FLAGS or variable != variable.upper():
            raise SettingsError(f"{variable}: there is no such setting")
        kind = _FLAGS[name]
        if kind.is_list and kind.is_secret and not text.strip():
            # With no key at all one would be made, and every client that has the lost one refused.
            raise SettingsError(f"{variable}: is empty; unset it for the default")
        values[name] = _read(kind, _split(text) if kind.is_list else text, variable)
    return values


def _from_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    values: dict[str, Any] = {}
    for name, value in document.items():
        if name not in _KINDS:
            raise SettingsError(f"{path}: {name}: there is no such setting")
        try:
            values[name] = _KINDS[name].take(value, name)
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}") from error
    return values


def _read(kind: Kind, given: Any, where: str) -> Any:
    return kind.read_all(given, where) if isinstance(kind, List) else kind.read(given, where)


def _split(text: str) -> list[str]:
    """Return the items of a list that a variable holds; an empty variable is an empty list."""
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(default: Any) -> str:
    if isinstance(default, Sequence) and not isinstance(default, str):
        return " ".join(map(str, default)) or "none"
    return "none" if default in (None, "") else str(default)
