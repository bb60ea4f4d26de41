"""Write keys in files: of `write_key_file`, of `segsrv key`, or one that the first start makes.

A server that was given no key makes one, so it is never open by accident.
"""

from __future__ import annotations

import dataclasses
import secrets
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from segsrv.errors import DataDirUnusable, SettingsError
from segsrv.files import make_dir, replace_file
from segsrv.settings import Key, Settings
from segsrv.settings.key import MADE_KEY_ID

FILE_NAME = "write-key"
ADDED_NAME = "keys.toml"
FILE_BYTES_MAX = 1 << 20
KEY_FILE_MODE = 0o600


class KeySource:
    """Where the keys of a server come from: *read* returns settings, without keys of other files.

    *piped* are keys of a `write_key_file` that can be read only once.
    """

    def __init__(
        self,
        read: Callable[[], Settings],
        paths: Iterable[Path] = (),
        piped: Sequence[Key] = (),
    ) -> None:
        self._read = read
        self._piped = tuple(piped)
        settings = read()
        file = settings.write_key_file
        self.paths = (
            *paths,
            *([file] if file is not None and not piped else []),
            added_path(settings),
            key_path(settings),
        )

    @classmethod
    def of(
        cls, read: Callable[[], Settings], known: Settings, paths: Iterable[Path] = ()
    ) -> KeySource:
        """Return that of a server that has begun with the keys of *known*."""
        raw = read()
        file = raw.write_key_file
        if file is None or file.is_file():
            return cls(read, paths)
        others = (*raw.keys, *added_keys(raw))
        return cls(read, paths, [key for key in known.keys if key not in others])

    def load(self) -> Settings:
        """Return the settings with all keys.

        Raises:
            SettingsError: A file is wrong, or there is no key at all.
            DataDirUnusable: A file can't be read.

        """
        settings = self._read()
        if self._piped:
            keys = (*settings.keys, *self._piped)
            settings = dataclasses.replace(settings, keys=keys, write_key_file=None)
        settings = with_kept_key(with_file_keys(settings))
        if not settings.all_keys():
            raise SettingsError("there is no key left")
        return settings


def with_keys(settings: Settings) -> Settings:
    """Return *settings* with all keys: their own and those of files, or the one that is made.

    That one is made at the first start and kept in the data directory.

    Raises:
        DataDirUnusable: The data directory can't be written or read.
        SettingsError: A file of keys is wrong.

    """
    kept = with_kept_key(with_file_keys(settings))
    if kept.all_keys():
        return kept
    path = key_path(settings)
    try:
        make_dir(path.parent, int(settings.file_mode, 8))
        replace_file(path, secrets.token_urlsafe(24).encode() + b"\n", file_mode=KEY_FILE_MODE)
    except OSError as error:
        raise DataDirUnusable(f"{path}: can't be written: {error.strerror}") from error
    return with_kept_key(settings)


def with_file_keys(settings: Settings) -> Settings:
    """Return *settings* with the keys of `write_key_file` among `keys`, and the file as read.

    It is read once, so that it may be a pipe. One key a line, as `write_key` has it; empty lines
    and those that begin with # are left out.

    Raises:
        SettingsError: The file can't be read or has no key or a wrong one; no part of it is shown.

    """
    path = settings.write_key_file
    if path is None:
        return settings
    where = f"write_key_file={path}"
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise SettingsError(f"{where}: more than {FILE_BYTES_MAX} bytes")
        lines = [line.strip() for line in data.decode("utf-8-sig").split("\n")]
    except OSError as error:
        raise SettingsError(f"{where}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError:
        # Not chained: the error has the bytes.
        raise SettingsError(f"{where}: expected UTF-8 text") from None
    keys = tuple(
        Key.parse(line, f"{where}: line {number}")
        for number, line in enumerate(lines, 1)
        if line and not line.startswith("#")
    )
    if not keys:
        raise SettingsError(f"{where}: has no key, expected SECRET or ID:SECRET on a line")
    return dataclasses.replace(settings, keys=(*settings.keys, *keys), write_key_file=None)


def with_kept_key(settings: Settings) -> Settings:
    """Return *settings* with the keys that the data directory keeps.

    That are those that `segsrv key` has added, and the one that an earlier start made, if the
    settings have none of their own.

    Raises:
        DataDirUnusable: A file is there, and can't be read or holds no key.
        SettingsError: The file of added keys is wrong, or has a key that the settings have.

    """
    added = added_keys(settings)
    if not settings.all_keys():
        settings = _with_made_key(settings)
    known = settings.all_keys()
    # They may be there already.
    new = tuple(key for key in added if key not in known)
    if not new:
        return settings
    try:
        return dataclasses.replace(settings, keys=(*settings.keys, *new))
    except SettingsError as error:
        raise SettingsError(f"{added_path(settings)}: {error}") from error


def makes_key(settings: Settings) -> bool:
    """Say whether a start with *settings* makes a key, or an earlier one has made it."""
    if settings.all_keys():
        return False
    return key_path(settings).exists() or not added_keys(settings)


def added_path(settings: Settings) -> Path:
    """Return where `segsrv key` keeps its keys."""
    return settings.data_dir / "state" / ADDED_NAME


def added_keys(settings: Settings) -> tuple[Key, ...]:
    """Return the keys that `segsrv key` has added.

    Raises:
        DataDirUnusable: The file is there and can't be read.
        SettingsError: It is wrong.

    """
    path = added_path(settings)
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise SettingsError(f"{path}: more than {FILE_BYTES_MAX} bytes")
        document = tomllib.loads(data.decode())
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise DataDirUnusable(f"{path}: can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # Without the text, which has secrets.
        raise SettingsError(f"{path}: not valid TOML") from None
    if document.keys() - {"keys"}:
        raise SettingsError(f"{path}: expected nothing but [[keys]] tables")
    try:
        return Settings(keys=document.get("keys", ())).keys
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def _with_made_key(settings: Settings) -> Settings:
    path = key_path(settings)
    try:
        secret = path.read_text("utf-8").strip()
        keys = (Key(id=MADE_KEY_ID, secret=secret),) if secret else ()
    except (FileNotFoundError, NotADirectoryError):
        return settings
    except OSError as error:
        raise DataDirUnusable(f"{path}: can't be read: {error.strerror}") from error
    except (UnicodeDecodeError, SettingsError):
        raise DataDirUnusable(f"{path}: holds no key; remove it and a new one is made") from None
    return dataclasses.replace(settings, keys=keys)


def key_path(settings: Settings) -> Path:
    """Return where a key that was made is kept."""
    return settings.data_dir / "state" / FILE_NAME
