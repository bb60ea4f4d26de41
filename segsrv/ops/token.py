"""The operators' token, which signs people and tools in to the pages that show events.

The first start that has a listener for operators makes it; it is kept beside the write key.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from segsrv.errors import DataDirUnusable
from segsrv.files import make_dir, sync_dir, write_all
from segsrv.settings import Settings

FILE_NAME = "ops-token"
FILE_MODE = 0o600
CHARS_MIN = 16
CHARS_MAX = 1_000


def token_path(settings: Settings) -> Path:
    """Return where the token is kept."""
    return settings.data_dir / "state" / FILE_NAME


def kept_token(settings: Settings) -> str:
    """Return the token, which is made if there is none yet.

    Raises:
        DataDirUnusable: The file can't be read or written, or holds no token.

    """
    path = token_path(settings)
    try:
        return _read(path) or _made(path, int(settings.file_mode, 8))
    except OSError as error:
        raise DataDirUnusable(f"{path}: {error.strerror}") from error


def _read(path: Path) -> str:
    """Return the token at *path*, empty if there is no file."""
    try:
        with path.open("rb") as file:
            data = file.read(CHARS_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    token = data.decode("ascii", "replace").strip()
    if not CHARS_MIN <= len(token) <= CHARS_MAX or not token.isascii() or not token.isprintable():
        raise DataDirUnusable(
            f"{path}: holds no token of {CHARS_MIN} to {CHARS_MAX} characters; remove it and a new "
            "one is made"
        )
    return token


def _made(path: Path, folder_file_mode: int) -> str:
    """Make a token at *path* and return it, or the one that another process made meanwhile."""
    make_dir(path.parent, folder_file_mode)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE)
    try:
        write_all(fd, [secrets.token_urlsafe(24).encode() + b"\n"])
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        # Unlike a rename, this leaves the token of whoever was first.
        os.link(temporary, path)
        sync_dir(path.parent)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return _read(path)
