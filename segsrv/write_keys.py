"""Makes a write key for a server that was given none: it is never open by accident."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path

from segsrv.journal.files import make_dir, replace_file
from segsrv.settings import Key, Settings

FILE_NAME = "write-key"


def with_keys(settings: Settings) -> Settings:
    """Return *settings* with a key, made at the first start and kept in the data directory."""
    if settings.all_keys():
        return settings
    path = key_path(settings)
    try:
        secret = path.read_text("utf-8").strip()
    except FileNotFoundError:
        secret = ""
    if not secret:
        secret = secrets.token_urlsafe(24)
        make_dir(path.parent)
        replace_file(path, secret.encode() + b"\n", mode=0o600)
    return dataclasses.replace(settings, keys=(Key(id="default", secret=secret),))


def key_path(settings: Settings) -> Path:
    """Return where a key that was made is kept."""
    return settings.data_dir / "state" / FILE_NAME
