"""Small file operations, those that must survive a power cut among them, for all rooms.

What is made here gets exactly the mode that it should have, whatever the umask is, and never has
more than that, not even for a moment. The umask itself belongs to the whole process, in which
segsrv may be a guest.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

FILE_MODE = 0o640
READ_BITS = 0o444
PARTS_MAX = os.sysconf("SC_IOV_MAX")
"""How many pieces the kernel takes at once."""

SYNC_FILE_RANGE_WRITE = 2

_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

Version = tuple[int, int, int]


def make_dir(path: Path, file_mode: int = FILE_MODE) -> None:
    """Make *path* and its parents, each entry on stable storage.

    Who may read files of *file_mode* may also enter and list the new folders.
    """
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    present = missing[-1].parent if missing else path
    # Whoever made that one may have been killed before its name was safe. An operator's own folder
    # may stand in one that can't be opened.
    with contextlib.suppress(PermissionError):
        sync_dir(present.parent)
    for folder in reversed(missing):
        # Another worker may make it at the same time, with the same mode.
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=_dir_mode(file_mode))
        # Not on a file system without modes.
        with contextlib.suppress(PermissionError):
            set_dir_mode(folder, file_mode)
        # Before the next one is made, so that a folder with something in it has a safe name.
        sync_dir(folder.parent)
    if not path.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def set_dir_mode(path: Path, file_mode: int) -> None:
    """Give the folder *path* the mode that goes with *file_mode*, where it has another.

    Raises:
        OSError: It is not there, or is another user's.

    """
    present = path.stat().st_mode
    # A folder that hands its group on to what is made in it, or is sticky, stays so.
    mode = _dir_mode(file_mode) | present & (stat.S_ISGID | stat.S_ISVTX)
    if stat.S_IMODE(present) != mode:
        path.chmod(mode)


def open_file(path: Path, flags: int, file_mode: int = FILE_MODE) -> int:
    """Open *path* for writing, and give it *file_mode* where it has another.

    On a file system without modes, and where the file is another user's, it stays as it is.
    """
    fd = os.open(path, flags, file_mode)
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != file_mode:
            with contextlib.suppress(PermissionError):
                os.fchmod(fd, file_mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


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


def write_all(fd: int, parts: Sequence[bytes | memoryview]) -> None:
    """Write every byte of *parts*; the kernel may take them in several pieces."""
    for start in range(0, len(parts), PARTS_MAX):
        some = parts[start : start + PARTS_MAX]
        written = os.writev(fd, some)
        if written < sum(map(len, some)):
            rest = memoryview(b"".join(some))[written:]
            while rest:
                rest = rest[os.write(fd, rest) :]


def write_all_at(fd: int, parts: Sequence[bytes | memoryview], offset: int, flags: int = 0) -> None:
    """Write every byte of *parts* from *offset* on; the file's own position counts for nothing.

    *flags* go to the kernel with every piece: with `os.RWF_DSYNC` each is on stable storage when
    the call for it returns, and so is the file's new size.

    Raises:
        OSError: The disk refused a piece; those before it may be there.

    """
    for start in range(0, len(parts), PARTS_MAX):
        some = parts[start : start + PARTS_MAX]
        size = sum(map(len, some))
        written = os.pwritev(fd, some, offset, flags)
        if written < size:
            rest = memoryview(b"".join(some))
            while written < size:
                taken = os.pwritev(fd, [rest[written:]], offset + written, flags)
                if not taken:
                    raise OSError(errno.EIO, "the file takes nothing more")
                written += taken
        offset += size


def begin_writeback(fd: int, offset: int, size: int) -> None:
    """Have the disk begin with *size* bytes from *offset* on, where the system can be told so.

    A sync of megabytes keeps other files' syncs waiting; this way it finds little left. It makes
    nothing safe: what fails is told to the sync that follows.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, size, SYNC_FILE_RANGE_WRITE)


def replace_file(
    path: Path, data: bytes, *, file_mode: int = FILE_MODE, is_synced: bool = True
) -> None:
    """Replace *path* as a whole: after a crash it holds the old bytes or the new ones.

    Without *is_synced* that is so after the end of the process, but not after a power cut.
    """
    temporary = path.with_name(path.name + ".tmp")
    fd = open_file(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, file_mode)
    try:
        write_all(fd, [data])
    finally:
        os.close(fd)
    if is_synced:
        publish(temporary, path)
    else:
        temporary.replace(path)


def publish(temporary: Path, path: Path) -> None:
    """Rename *temporary* to *path*, which then has all of it or, after a power cut, is as before.

    Both are in one folder. When this returns, the new one is there for good.
    """
    fd = os.open(temporary, os.O_RDONLY)
    try:
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


def _dir_mode(file_mode: int) -> int:
    """Return *file_mode* with the right to enter for everybody who may read."""
    return file_mode | (file_mode & READ_BITS) >> 2
