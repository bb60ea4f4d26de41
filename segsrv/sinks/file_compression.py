"""Compresses closed files of the file sink, and reads what it made.

The compressed file grows under a temporary name, is synced and renamed, and its folder is synced,
before the original is removed. So a crash leaves the original alone, or both of them whole, of
which readers take the compressed one; compressing again then ends with that one alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from segsrv.files import open_file, publish, write_all
from segsrv.sinks.file_names import COMPRESSED, TEMPORARY, Method

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 256 << 10
GZIP_LEVEL = 6
ZSTD_LEVEL = 3
UNREADABLE = (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def compressed_names(path: Path) -> list[Path]:
    """Return the names that the compressed file of *path* may have."""
    return [path.with_name(path.name + suffix) for suffix in COMPRESSED]


def compress(path: Path, method: Method, should_stop: Callable[[], bool]) -> bool:
    """Put a compressed file in the place of *path*, which nobody writes to any more.

    Memory holds a piece of it at a time, however large it is. Return False if *should_stop* said so
    before the end, or if it is gone or another process is at it.

    Raises:
        OSError: It can't be read, or the disk can't hold the other one; it is left as it is.

    """
    try:
        source = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if not _is_ours(source):
            return False
        target = _target(path, method)
        temporary = target.with_name(target.name + TEMPORARY)
        try:
            is_whole = _write(source, temporary, COMPRESSED[target.suffix], should_stop)
            if is_whole:
                publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        if is_whole:
            path.unlink(missing_ok=True)
        return is_whole
    finally:
        os.close(source)


def drop_if_stale(temporary: Path) -> None:
    """Remove *temporary* unless a process is about to give it its name."""
    source = temporary.with_suffix("").with_suffix("")
    try:
        fd = os.open(source, os.O_RDONLY)
    except FileNotFoundError:
        temporary.unlink(missing_ok=True)
        return
    try:
        if _is_ours(fd):
            temporary.unlink(missing_ok=True)
    finally:
        os.close(fd)


def open_any(path: Path) -> BinaryIO:
    """Open *path*, compressed or not, to read its lines.

    Raises:
        OSError: It can't be opened; what is read from it may raise one of UNREADABLE too.

    """
    match COMPRESSED.get(path.suffix):
        case "gzip":
            return cast("BinaryIO", gzip.open(path, "rb"))
        case "zstd":
            return cast("BinaryIO", zstd.open(path, "rb"))
        case None:
            return path.open("rb")


def _target(path: Path, method: Method) -> Path:
    """Return the compressed file's name: that of one that a crash left beside *path*, if any.

    With another suffix there would be two compressed files for one once the original is gone.
    """
    names = compressed_names(path)
    wanted = next(name for name in names if COMPRESSED[name.suffix] == method)
    return next((name for name in names if name.exists()), wanted)


def _is_ours(fd: int) -> bool:
    """Take the lock of an open file; say whether we have it, and the file is still there."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks. Two at once would do the work twice, to the same end.
        pass
    return os.fstat(fd).st_nlink > 0


def _write(source: int, temporary: Path, method: Method, should_stop: Callable[[], bool]) -> bool:
    status = os.fstat(source)
    temporary.unlink(missing_ok=True)
    target = open_file(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, status.st_mode & 0o777)
    try:
        compressor = _compressor(method)
        while piece := os.read(source, PIECE_BYTES):
            if should_stop():
                return False
            write_all(target, [compressor.compress(piece)])
        write_all(target, [compressor.flush()])
        # What is kept for a time is kept from the last event on, not from the compression.
        with contextlib.suppress(PermissionError):
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(target)
    return True


def _compressor(method: Method) -> _Compressor:
    if method == "gzip":
        return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return zstd.ZstdCompressor(
        options={
            zstd.CompressionParameter.compression_level: ZSTD_LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
        }
    )
