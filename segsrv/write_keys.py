"""Makes a write key for a server that was given none: it is never open by accident."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path

from segsrv.errors import DataDirUnusable, SettingsError
from segsrv.journal.files import make_dir, replace_file
from segsrv.settings import Key, Settings

FILE_NAME = "write-key"


def with_keys(settings: Settings) -> Settings:
    """Return *settings* with a key, made at the first start and kept in the data directory.

    Raises:
        DataDirUnusable: The data directory can't be written or read.

    """
    if settings.all_keys():
        return settings
    kept = with_kept_key(settings)
    if kept.all_keys():
        return kept
    path = key_path(settings)
    try:
        make_dir(path.parent)
        replace_file(path, secrets.token_urlsafe(24).encode() + b"\n", mode=0o600)
    except OSError as error:
        raise DataDirUnusable(f"{path}: can't be written: {error.strerror}") from error
    return with_kept_key(settings)


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
        keys = (Key(id="default", secret=secret),) if secret else ()
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
