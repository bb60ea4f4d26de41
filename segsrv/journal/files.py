"""Small file operations, those that must survive a power cut among them, for all rooms."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

Version = tuple[int, int, int]


def make_dir(path: Path) -> None:
    """Make *path* and its parents, each entry on stable storage."""
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_dir(made.parent)


def obstacle(path: Path) -> Path | None:
    """Return what keeps *path* from being a folder that can be written; None if nothing does."""
    # Not `exists`: it raises below a folder that may not be looked into, the obstacle.
    parts = (path, *path.absolute().parents)
    present = next(part for part in parts if file_version(part) is not None)
    can_be_written = present.is_dir() and os.access(present, os.W_OK | os.X_OK)
    return None if can_be_written else present


def is_full(error: OSError) -> bool:
    """Say whether *error* is over as soon as something is deleted."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def sync_dir(path: Path) -> None:
    """Put the entries of a directory on stable storage: a new file's name is one of them."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, parts: Sequence[bytes]) -> None:
    """Write every byte of *parts*; the kernel may take them in several pieces."""
    written = os.writev(fd, parts)
    total = sum(map(len, parts))
    if written < total:
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def replace_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace *path* as a whole: after a crash it holds the old bytes or the new ones."""
    temporary = path.with_name(path.name + ".tmp")
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
    try:
        write_all(fd, [data])
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_dir(path.parent)


def file_version(path: Path) -> Version | None:
    """Return what changes when *path* is written or replaced; None if it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
