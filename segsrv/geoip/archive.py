"""Takes the database out of what a provider sends: a gzip file, or a tar file in one."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from typing import IO

from segsrv.errors import SegsrvError

COPY_BYTES = 256 << 10
TAR_BLOCK_BYTES = 512


class ArchiveError(SegsrvError):
    """The archive is damaged, too large, or holds no database."""

    code = "archive"


def unpack(archive: IO[bytes], database: IO[bytes], *, bytes_max: int, is_tar: bool) -> None:
    """Write the one database in *archive* to *database*.

    Raises:
        ArchiveError: It is damaged, holds none or several, or more than *bytes_max* come out of it.

    """
    try:
        with gzip.GzipFile(fileobj=archive, mode="rb") as unzipped:
            stream = _Bounded(unzipped, bytes_max)
            if is_tar:
                _copy_member(stream, database)
            stream.drain(None if is_tar else database)
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise ArchiveError(f"the archive is damaged: {error}") from error


class _Bounded:
    """Reads a decompressed stream and stops it at a number of bytes."""

    def __init__(self, stream: gzip.GzipFile, bytes_max: int) -> None:
        self._stream = stream
        self._bytes_max = bytes_max
        self._read_bytes = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._read_bytes += len(data)
        if self._read_bytes > self._bytes_max:
            raise ArchiveError(f"more than {self._bytes_max} B when unpacked")
        return data

    def copy(self, size: int, to: IO[bytes] | None) -> None:
        """Copy exactly *size* bytes, or skip them."""
        while size > 0:
            data = self.read(min(size, COPY_BYTES))
            if not data:
                raise EOFError("the archive ends inside a file")
            if to is not None:
                to.write(data)
            size -= len(data)

    def drain(self, to: IO[bytes] | None) -> None:
        """Copy or skip all the rest, so that the checksum at the end of a gzip file is seen."""
        while data := self.read(COPY_BYTES):
            if to is not None:
                to.write(data)


def _copy_member(tar: _Bounded, database: IO[bytes]) -> None:
    """Copy the one .mmdb file of a tar archive.

    Only the header's format is left to tarfile: its reader takes extended headers of any size into
    memory.
    """
    found = 0
    while (header := tar.read(TAR_BLOCK_BYTES)).strip(b"\0"):
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        is_database = member.isreg() and member.name.endswith(".mmdb")
        found += is_database
        if found > 1:
            break
        tar.copy(member.size, database if is_database else None)
        tar.copy(-member.size % TAR_BLOCK_BYTES, None)
    if found != 1:
        raise ArchiveError(f"{'several' if found else 'no'} .mmdb files in the archive")
