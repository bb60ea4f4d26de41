"""Replaces closed files of the file sink by compressed ones or Parquet, and reads what it made.

The new file grows under a temporary name, is synced and renamed, and its folder is synced, before
the original is removed. So a crash leaves the original alone, or both of them whole; replacing
again then ends with the new one alone. That one is complete, by its permissions, only when the
original is gone for good: whoever listed both finds the original gone.
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
from typing import BinaryIO, Literal, Protocol, cast

from segsrv.files import open_file, publish, sync_dir, write_all
from segsrv.sinks.file import parquet as file_parquet
from segsrv.sinks.file.names import (
    TEMPORARY,
    WRITE_BITS,
    Method,
    method_of,
    replaced_name,
    replacing_names,
)

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


def compress(path: Path, method: Method, should_stop: Callable[[], bool]) -> bool:
    """Put a compressed or Parquet file in the place of *path*, which nobody writes to any more.

    Memory holds a piece of it at a time, however large it is. Return False if *should_stop* said so
    before the end, or if it is gone or another process is at it.

    Raises:
        OSError: It can't be read, or the disk can't hold the other one; it is left as it is.
        NotConverted: It can't be Parquet; it is left as it is.

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
            is_whole = _write(source, temporary, method_of(target) or method, should_stop)
            if is_whole:
                publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        if is_whole:
            path.unlink(missing_ok=True)
            complete(target)
        return is_whole
    finally:
        os.close(source)


def complete(path: Path) -> None:
    """Take the write permission from a file that replaced another one, which is removed."""
    # Else the other one could come back with the power.
    sync_dir(path.parent)
    with contextlib.suppress(FileNotFoundError):
        path.chmod(path.stat().st_mode & 0o777 & ~WRITE_BITS)


def drop_if_stale(temporary: Path) -> None:
    """Remove *temporary* unless a process is about to give it its name."""
    source = replaced_name(temporary.with_suffix(""))
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


def has_lines(path: Path, offset: int, size: int) -> bool:
    """Say whether whole lines stand in all *size* bytes from *offset* on of the file at *path*.

    If it was replaced, it is the other one that is looked at; while it is, there is always one.

    Raises:
        OSError: It can't be read.
        SinkUnavailable: It is Parquet now, and the driver for that is missing.

    """
    for name in (path, *replacing_names(path)):
        try:
            method = method_of(name)
            if method == "parquet":
                return file_parquet.has_lines(name, offset + size)
            with _open(name, method) as file:
                file.seek(offset)
                data = file.read(size)
        except FileNotFoundError:
            continue
        except UNREADABLE:
            return False
        # A power cut may leave zeros where the data of a write was still to come.
        return len(data) == size and data.endswith(b"\n") and b"\0" not in data
    return False


def _open(path: Path, method: Literal["gzip", "zstd"] | None) -> BinaryIO:
    match method:
        case "gzip":
            return cast("BinaryIO", gzip.open(path, "rb"))
        case "zstd":
            return cast("BinaryIO", zstd.open(path, "rb"))
        case None:
            return path.open("rb")


def _target(path: Path, method: Method) -> Path:
    """Return the new file's name: that of one that a crash left beside *path*, if any.

    With another suffix there would be two files for one once the original is gone.
    """
    names = replacing_names(path)
    wanted = next(name for name in names if method_of(name) == method)
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
    # With the owner's permission to write: it is not complete yet.
    mode = status.st_mode & 0o777 | 0o200
    target = open_file(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        if method == "parquet":
            if not file_parquet.convert(source, target, should_stop):
                return False
        elif not _compress(source, target, method, should_stop):
            return False
        # What is kept for a time is kept from the last event on, not from the compression.
        with contextlib.suppress(PermissionError):
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(target)
    return True


def _compress(
    source: int, target: int, method: Literal["gzip", "zstd"], should_stop: Callable[[], bool]
) -> bool:
    compressor = _compressor(method)
    while piece := os.read(source, PIECE_BYTES):
        if should_stop():
            return False
        write_all(target, [compressor.compress(piece)])
    write_all(target, [compressor.flush()])
    return True


def _compressor(method: Literal["gzip", "zstd"]) -> _Compressor:
    if method == "gzip":
        return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return zstd.ZstdCompressor(
        options={
            zstd.CompressionParameter.compression_level: ZSTD_LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
        }
    )
