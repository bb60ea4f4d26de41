"""Dead letters read back and taken out again, beside a server that may append at any moment.

Reading takes no lock. What is taken out is first copied around: the rest of the file goes to a new
one, which is put in its place while the file is locked. A server that wants to append meanwhile
begins the next file. The newest file of a prefix always stays, if only empty, so that a server
that has it in mind never makes it anew. Commands that take letters out exclude each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from segsrv.errors import SegsrvError
from segsrv.files import file_version, open_file, sync_dir, write_all
from segsrv.journal.dead_letters import NUMBER_DIGITS, number_of, whole_bytes

UNREADABLE = "unreadable"
"""The reason of a line that is no letter."""
SINK_REASON = "sink_rejected"
TRANSFORM_REASONS = frozenset({"transform_failed", "transform_timeout", "transform_exited"})
"""Those of events that a function could not take: their item is what it was given first."""
COPY_BYTES = 1 << 20
OPEN_TRIES = 100

Span = tuple[int, int]
_NAME = re.compile(rf"(?P<prefix>.+)-[0-9]{{{NUMBER_DIGITS}}}\.ndjson")
_ITEM = b',"item":'


class FolderInUse(SegsrvError):
    """Another command changes what is in the folder."""

    code = "folder_in_use"


@dataclass(frozen=True)
class Letter:
    """A line of *path* from byte *start* to *end*; `line` has no newline."""

    path: Path
    start: int
    end: int
    line: bytes

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What the line says; only a reason where it is no letter."""
        try:
            fields = orjson.loads(self.line)
        except ValueError:
            fields = None
        return fields if isinstance(fields, dict) else {"reason": UNREADABLE}

    def text(self, name: str) -> str:
        """Return a field that is a text, else an empty one."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""

    @property
    def time_ms(self) -> int:
        """When it was written, or its event received, in ms since 1970.

        Where it says neither, at the latest: when its file was last written.
        """
        for name in ("time", "received_at"):
            with contextlib.suppress(ValueError):
                return round(datetime.fromisoformat(self.text(name)).timestamp() * 1000)
        version = file_version(self.path)
        return version[0] // 1_000_000 if version else 0

    def item(self) -> bytes:
        """Return the event in the letter, byte for byte as it was stored, with its newline."""
        # Quotes inside a text are escaped, so these bytes are the member's name.
        rest = self.line.partition(_ITEM)[2]
        ends = [len(rest) - 1, *(found.start() for found in re.finditer(rb',"\w+":', rest))]
        for end in ends[:1] + ends[:0:-1]:
            with contextlib.suppress(ValueError):
                if orjson.loads(rest[:end]) == self.fields.get("item"):
                    return rest[:end] + b"\n"
        return orjson.dumps(self.fields.get("item")) + b"\n"


def files(directory: Path) -> list[Path]:
    """Return the files with letters, those of a prefix together, the oldest first."""
    try:
        found = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    return sorted(path for path in found if path.is_file())


def read(path: Path, end: int | None = None) -> Iterator[Letter]:
    """Yield the letters of a file, up to the last whole line or *end*; none if it was deleted."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        end = whole_bytes(file.fileno()) if end is None else end
        start = 0
        while start < end and (line := file.readline()).endswith(b"\n"):
            yield Letter(path, start, start + len(line), line[:-1])
            start += len(line)


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keep other commands from changing what is in *directory*, if that is there.

    Raises:
        FolderInUse: Another one is at it.

    """
    if not directory.is_dir():
        yield
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(f"{directory}: another command is changing it") from error
        for path in directory.glob("*.ndjson.tmp"):
            path.unlink(missing_ok=True)
        yield
    finally:
        os.close(fd)


def settled_bytes(path: Path) -> int:
    """Return how many bytes of *path* are letters that no failed write takes back any more."""
    fd = _locked(path)
    if fd is None:
        return 0
    try:
        return whole_bytes(fd)
    finally:
        os.close(fd)


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return *spans* in ascending order, neighbours as one."""
    result: list[Span] = []
    for low, high in sorted(spans):
        if result and result[-1][1] == low:
            result[-1] = (result[-1][0], high)
        else:
            result.append((low, high))
    return result


def remove(path: Path, spans: Sequence[Span]) -> None:
    """Take out what stands in *spans*, which are whole lines in ascending order.

    After a crash the file is as it was or as it shall be.

    Raises:
        OSError: The disk refused; the file is as it was.

    """
    fd = _locked(path)
    if fd is None:
        return
    try:
        kept = _complement(spans, whole_bytes(fd))
        if kept:
            _replace(path, fd, kept)
        elif _is_newest(path):
            # In place: the disk may be full, which is why somebody makes room.
            os.ftruncate(fd, 0)
            os.fsync(fd)
        else:
            path.unlink(missing_ok=True)
            sync_dir(path.parent)
    finally:
        os.close(fd)


def _locked(path: Path) -> int | None:
    """Open *path* and wait for its lock; None if it is not there."""
    for _ in range(OPEN_TRIES):
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))


def _complement(spans: Sequence[Span], end: int) -> list[Span]:
    """Return what of a file of *end* bytes is not in *spans*."""
    kept = []
    start = 0
    for low, high in spans:
        if low > start:
            kept.append((start, low))
        start = high
    if start < end:
        kept.append((start, end))
    return kept


def _replace(path: Path, source: int, kept: Sequence[Span]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    present = os.fstat(source)
    target = open_file(
        temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, stat.S_IMODE(present.st_mode)
    )
    try:
        try:
            _give_to_owner(target, present)
            for low, high in kept:
                for start in range(low, high, COPY_BYTES):
                    write_all(target, [os.pread(source, min(COPY_BYTES, high - start), start)])
            # A letter without a time of its own is as old as its file.
            os.utime(target, ns=(present.st_atime_ns, present.st_mtime_ns))
            os.fsync(target)
        finally:
            os.close(target)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_dir(path.parent)


def _give_to_owner(fd: int, present: os.stat_result) -> None:
    """Make sure that the server can still append: an operator may be another user than it."""
    made = os.fstat(fd)
    if (made.st_uid, made.st_gid) != (present.st_uid, present.st_gid):
        os.fchown(fd, present.st_uid, present.st_gid)


def _is_newest(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    pattern = f"{match['prefix']}-{'[0-9]' * NUMBER_DIGITS}.ndjson"
    return number_of(path) == max(map(number_of, path.parent.glob(pattern)), default=0)
