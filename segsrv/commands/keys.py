"""`segsrv key`: keys that are added, rotated and disabled while a server runs.

They are in a file of the data directory, which only this command writes, under a lock and as a
whole. A server looks at it every second.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from segsrv.commands.parts import add_common_flags, check_user, guarded
from segsrv.errors import SettingsError
from segsrv.files import make_dir, open_file, replace_file
from segsrv.settings import Key, Settings, sources
from segsrv.settings.key import SECRETS_MAX
from segsrv.sinks.registry import resolve
from segsrv.write_keys import KEY_FILE_MODE, added_keys, added_path, with_file_keys, with_kept_key

SECRET_BYTES = 24
KEYS_MAX = 5_000
_EXAMPLE = '{"type":"track","event":"Hello","userId":"u1"}'
_LISTS = {"type": "types", "format": "formats", "origin": "origins", "sink": "sinks"}


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the commands to the parser."""
    key = commands.add_parser("key", help="write keys, without a restart").add_subparsers(
        required=True, metavar="COMMAND"
    )
    for name, run, text in (
        ("add", _add, "make a key, and print its secret once"),
        ("list", _list, "say which keys there are, without their secrets"),
        ("disable", _disable, "refuse the events of a key"),
        ("enable", _enable, "take the events of a key again"),
        ("rotate", _rotate, "give a key a new secret; the old ones stay good"),
    ):
        parser = key.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_common_flags(parser)
        if name == "list":
            parser.add_argument("--json", action="store_true", dest="is_json", help="for scripts")
        else:
            parser.add_argument("id", metavar="ID", help="the key's public name")
        if name == "add":
            parser.add_argument("--rate", type=float, metavar="EVENTS", help="events a second")
            parser.add_argument("--burst", type=int, metavar="EVENTS", help="at once, above that")
            for flag in _LISTS:
                # Not the name of the setting `sink`.
                parser.add_argument(
                    f"--{flag}",
                    dest=f"key_{flag}",
                    action="append",
                    metavar="NAME",
                    help=f"one of its {flag}s; repeat the flag for more",
                )
        if name == "rotate":
            parser.add_argument(
                "--drop-old", action="store_true", dest="drops_old", help="refuse the old secrets"
            )
        parser.set_defaults(run=guarded(run))


def _add(flags: argparse.Namespace) -> int:
    values: dict[str, Any] = {
        name: tuple(given)
        for flag, name in _LISTS.items()
        if (given := getattr(flags, f"key_{flag}"))
    }
    if flags.rate is not None:
        values["rate_events_per_s"] = flags.rate
    if flags.burst is not None:
        values["burst_events"] = flags.burst
    key = Key(id=flags.id, secret=_new_secret(), **values)

    def change(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        if any(other.id == key.id for other in keys):
            raise SettingsError(f"{key.id}: there is such a key; `segsrv key rotate` changes it")
        if len(keys) >= KEYS_MAX:
            raise SettingsError(f"{key.id}: there are {len(keys)} keys, which is the limit")
        return (*keys, key)

    _change(flags, change)
    _print_secret(key)
    return 0


def _disable(flags: argparse.Namespace) -> int:
    _replace(flags, lambda key: dataclasses.replace(key, disabled=True))
    print(f"{flags.id} is disabled")
    return 0


def _enable(flags: argparse.Namespace) -> int:
    _replace(flags, lambda key: dataclasses.replace(key, disabled=False))
    print(f"{flags.id} is enabled")
    return 0


def _rotate(flags: argparse.Namespace) -> int:
    secret = _new_secret()

    def rotated(key: Key) -> Key:
        old = () if flags.drops_old else key.secrets
        if len(old) >= SECRETS_MAX:
            raise SettingsError(f"{key.id}: has {len(old)} secrets, give --drop-old")
        return dataclasses.replace(key, secret=secret, secrets=(secret, *old))

    _print_secret(_replace(flags, rotated))
    return 0


def _list(flags: argparse.Namespace) -> int:
    settings = sources.load(vars(flags), os.environ)
    added = {key.id for key in added_keys(settings)}
    for key in with_kept_key(with_file_keys(settings)).all_keys():
        told = _described(key) | {"secrets": len(key.secrets), "is_added": key.id in added}
        if flags.is_json:
            print(json.dumps(told))
            continue
        parts = [f"{name}={_text(value)}" for name, value in told.items() if name != "id"]
        print(key.id, *parts)
    return 0


def _replace(flags: argparse.Namespace, change: Callable[[Key], Key]) -> Key:
    """Change the key that *flags* name, and return it as it is now."""
    found: list[Key] = []

    def change_all(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        changed = tuple(change(key) if key.id == flags.id else key for key in keys)
        found.extend(key for key in changed if key.id == flags.id)
        if not found:
            raise SettingsError(f"{flags.id}: there is no key with this id")
        return changed

    _change(flags, change_all)
    return found[0]


def _change(
    flags: argparse.Namespace, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]
) -> None:
    """Replace the added keys by what *change* returns, when a server would take them."""
    settings = sources.load(vars(flags), os.environ)
    check_user(settings)
    own = with_file_keys(settings)
    if any(key.id == flags.id for key in own.all_keys()):
        raise SettingsError(
            f"{flags.id}: is a key of the settings (file, variables or flags); change it there"
        )
    with _locked(settings):
        keys = change(added_keys(settings))
        # As a server would read them: with the others, and the sinks that there are.
        resolve(dataclasses.replace(own, keys=(*own.keys, *keys)))
        replace_file(added_path(settings), _toml(keys).encode(), file_mode=KEY_FILE_MODE)


@contextlib.contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    path = added_path(settings).with_suffix(".lock")
    make_dir(path.parent, int(settings.file_mode, 8))
    fd = open_file(path, os.O_CREAT | os.O_RDWR, KEY_FILE_MODE)
    try:
        # Who has it needs milliseconds.
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _new_secret() -> str:
    return secrets.token_urlsafe(SECRET_BYTES)


def _print_secret(key: Key) -> None:
    print(f"The secret of {key.id}, which is not shown again:\n\n  {key.secret}\n")
    print("Try it, at the address of your server:\n")
    print(f"  curl -u '{key.secret}:' http://127.0.0.1:8080/api/v1/segment -d '{_EXAMPLE}'")


def _described(key: Key) -> dict[str, Any]:
    """Return what *key* says beside its secrets, where that is not the default."""
    told = {}
    for spec in dataclasses.fields(Key):
        value = getattr(key, spec.name)
        if spec.name not in ("secret", "secrets") and value != spec.default:
            told[spec.name] = value
    return told


def _toml(keys: tuple[Key, ...]) -> str:
    """Return *keys* as TOML; their texts have no control characters, so JSON's are TOML's."""
    lines = ["# Written by `segsrv key`, which replaces it."]
    for key in keys:
        lines += ["", "[[keys]]"]
        for name, value in (_described(key) | {"secrets": key.secrets}).items():
            shown = json.dumps(value, ensure_ascii=False)
            lines.append(f"{name} = {shown}")
    return "\n".join([*lines, ""])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
