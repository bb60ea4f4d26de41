"""Locks of a data directory: one owner, and only for as long as the file stands there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from segsrv.errors import DataDirInUse
from segsrv.files import FILE_MODE, open_file


def take(path: Path, file_mode: int = FILE_MODE, *, is_shared: bool = False) -> int:
    """Lock *path* and return the open file that holds the lock until it is closed.

    Those that ask for a lock that *is_shared* may have it together, but not beside one that does
    not share.

    Raises:
        DataDirInUse: Another process has it, or another user in this one.

    """
    fd = open_file(path, os.O_CREAT | os.O_RDWR, file_mode)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise DataDirInUse(
            f"{path.parent} is in use by process {owner or 'unknown'}; "
            "two servers can't share a data directory"
        ) from error
    # The number only helps people; a full disk must not keep a server from delivering what it has.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def check(fd: int, path: Path) -> None:
    """Make sure that the lock *fd* is the one that others meet at *path*.

    Raises:
        OSError: The file was removed, or replaced by another, which is free to be locked again.

    """
    if not os.path.samestat(os.fstat(fd), path.stat()):
        raise FileNotFoundError(errno.ENOENT, "its lock was replaced")
