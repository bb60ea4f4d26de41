"""Makes a write key for a server that was given none: it is never open by accident."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path

from segsrv.errors import DataDirUnusable
from segsrv.journal.files import make_dir, replace_file
from segsrv.settings import Key, Settings

FILE_NAME = "write-key"
KEY_FILE_MODE = 0o600


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
        make_dir(path.parent, int(settings.file_mode, 8))
        replace_file(path, secrets.token_urlsafe(24).encode() + b"\n", file_mode=KEY_FILE_MODE)
    except OSError as error:
        raise DataDirUnusable(f"{path}: can't be written: {error.strerror}") from error
    return with_kept_key(settings)


def with_kept_key(settings: Settings) -> Settings:
    """Return *settings* with the key that an earlier start made, if they have none of their own.

    Raises:
        DataDirUnusable: The file is there, and can't be read.

    """
    path = key_path(settings)
    if settings.all_keys() or not path.exists():
        return settings
    try:
        secret = path.read_text("utf-8").strip()
    except OSError as error:
        raise DataDirUnusable(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataDirUnusable(f"{path}: holds no key: {error}") from error
    keys = (Key(id="default", secret=secret),) if secret else ()
    return dataclasses.replace(settings, keys=keys)


def key_path(settings: Settings) -> Path:
    """Return where a key that was made is kept."""
    return settings.data_dir / "state" / FILE_NAME
