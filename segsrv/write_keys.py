"""Write keys that are in files: those of `write_key_file`, or one that the first start makes.

A server that was given no key makes one, so it is never open by accident.
"""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path

from segsrv.errors import DataDirUnusable, SettingsError
from segsrv.files import make_dir, replace_file
from segsrv.settings import Key, Settings
from segsrv.settings.key import MADE_KEY_ID

FILE_NAME = "write-key"
FILE_BYTES_MAX = 1 << 20
KEY_FILE_MODE = 0o600


def with_keys(settings: Settings) -> Settings:
    """Return *settings* with all keys: their own and those of their file, or the one that is made.

    That one is made at the first start and kept in the data directory.

    Raises:
        DataDirUnusable: The data directory can't be written or read.
        SettingsError: The file of keys is wrong.

    """
    settings = with_file_keys(settings)
    if settings.all_keys():
        return settings
    kept = with_kept_key(settings)
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
    """Return *settings* with the key that an earlier start made, if they have none of their own.

    Raises:
        DataDirUnusable: The file is there, and can't be read or holds no key.

    """
    if settings.all_keys():
        return settings
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
