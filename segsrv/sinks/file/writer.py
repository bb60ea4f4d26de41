"""Appends to the file sink's files without a sync for each batch, and finds its place again.

A placement is `{"file", "offset", "bytes"}`: the next batch goes to `offset + bytes`. Placements
of a writer have no bytes; those of batches that were planned do. With `cut`, what stands behind it
goes, since it is kept elsewhere.

A file is synced before the next one gets a byte, and a cut before anything is written in its place.
So what a power cut leaves behind a placement that was saved is the beginning of what was written
there: whole lines, and then perhaps the end of a file, zeros, or a part of a line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from segsrv.errors import SinkUnavailable
from segsrv.files import begin_writeback, make_dir, open_file, sync_dir, write_all
from segsrv.sinks.base import Lines, Placement
from segsrv.sinks.file.names import (
    MARK_BYTES,
    WRITE_BITS,
    FileName,
    Rotation,
    can_go_on,
    is_writable,
    period_end,
    with_mark,
)
from segsrv.sinks.file.open_files import OpenFiles
from segsrv.sinks.file.tail import FileTail

TICK = timedelta(microseconds=1)
WRITEBACK_BYTES = 512 << 10
"""After so much the disk is told to begin: at 10 MB/s a sync a second kept it busy for 10 ms, in
which no commit went down."""
PAGE_BYTES = 4_096


class FileWriter:
    """The `Writer` of a file sink; *busy* guards *files* and the place, for who closes files.

    `place` is where the next batch goes; None as long as that is not known. `is_suspect` says that
    a sync has failed: what was written since the last good one may be gone from memory, too.
    """

    def __init__(
        self,
        root: Path,
        files: OpenFiles,
        busy: threading.Lock,
        *,
        file_bytes_max: int,
        rotation: Rotation,
        file_mode: int,
    ) -> None:
        self.place: Placement | None = None
        self.is_suspect = False
        self._root = root
        self._files = files
        self._busy = busy
        self._file_bytes_max = file_bytes_max
        self._rotation = rotation
        self._file_mode = file_mode
        self._fd = -1
        self._is_unsynced = False
        self._is_cut = False
        # Up to here the disk was told to write the file that is open; None where it was not.
        self._begun: int | None = None
        self._name = ""
        self._until = datetime.min.replace(tzinfo=UTC)
        self._order: list[str] = []
        self._settled: Placement | None = None
        self._has_begun = False

    @property
    def is_settled(self) -> bool:
        """Whether nothing is on its way, so that files may be closed by the clock."""
        return not self._has_begun or (self.place is not None and self.place == self._settled)

    def tail(self, last: Placement, *, is_shared: bool = False) -> FileTail:
        """Return what stands behind *last*; where nothing is known, a new writer begins.

        What `is_shared` is another process's: only read, and not closed either.

        Raises:
            SinkUnavailable: The disk refused.

        """
        with self._alone():
            self._has_begun = True
            self.place = None
            if not self.is_suspect:
                # Its file may be another's by now, or gone from where the look begins.
                self._sync()
            self._let_go()
            was = FileName.parse(last.get("file", ""))
            if was is None:
                last = place_of(_new_name(), 0) | {"cut": last.get("cut")}
                was = FileName.parse(last["file"])
                assert was is not None, "it was made just now"
            file, offset, mark = last["file"], last["offset"] + last["bytes"], was.mark
            if not is_shared:
                self._files.learn(mark)
            later = sorted(
                name
                for name in with_mark(self._root, mark, is_closed_too=True)
                if name > file and FileName.parse(name) is not None
            )
            tail = FileTail(self._root, [file, *later], offset, is_read_only=is_shared)
            if last.get("cut"):
                tail.cut()
            return tail

    def go_on(self, tail: FileTail) -> Placement:
        """Make safe what stands before the place that *tail* has come to; go on from there.

        Raises:
            SinkUnavailable: The disk refused; `is_suspect` is set.

        """
        with self._alone():
            try:
                tail.end()
                for folder in sorted({(self._root / file).parent for file in tail.passed}):
                    if folder.exists():
                        # Whoever made it, or a file in it, may have been killed before its name was
                        # safe.
                        make_dir(folder, self._file_mode)
                        sync_dir(folder)
            except BaseException:
                self.is_suspect = True
                raise
            self.is_suspect = False
            self._order = tail.passed
            self.place = place_of(tail.file, tail.offset)
            return self.place

    def append(self, parts: Sequence[Lines], last: Placement) -> tuple[Placement, bool]:
        """Write *parts*, whole lines, behind *last*; return where what follows goes, and True.

        With False nothing was written: what is returned is to be saved, and then given as *last*.

        Raises:
            SinkUnavailable: The disk refused; `place` is then *last*, or None.

        """
        with self._alone():
            if self.place != last:
                raise SinkUnavailable(f"{self._root}: its place is not known")
            place = self._ready(last)
            if place is None:
                place = self._next(last)
                if place["file"] < last["file"]:
                    # The clock was set back by a day. With another mark, what is behind this place
                    # does not seem to go on with files that sort behind it.
                    place = place_of(_new_name(), 0)
                    self._finish_file()
                    self._order.append(place["file"])
                    self.place = place
                    return place, False
                self._begin(place)
            elif self._is_cut:
                self._sync()
                self._is_cut = False
            self._write(parts, place)
            self.place = place_of(place["file"], place["offset"] + sum(map(len, parts)))
            return self.place, True

    def sync(self) -> None:
        """Make all safe that was appended.

        Raises:
            SinkUnavailable: It may not be; `is_suspect` is set, and `place` is None.

        """
        with self._alone():
            if self.is_suspect:
                # What it was about is let go of, and the next sync would have nothing to do.
                raise SinkUnavailable(f"{self._root}: what was written last may be gone")
            self._sync()

    def settled(self, place: Placement) -> None:
        """Close the files before *place*: nobody will ask for what stands in them again."""
        with self._busy:
            self._settled = place
            if place.get("file") in self._order:
                del self._order[: self._order.index(place["file"])]
                self._files.close(self._files.names - set(self._order))

    def close(self) -> None:
        """Let go of the file, which stays open for readers, since a restart goes on with it."""
        with self._busy:
            self.place = None
            self._let_go()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._busy:
            try:
                yield
            except OSError as error:
                raise SinkUnavailable(f"{self._root}: {error.strerror or error}") from error

    def _ready(self, last: Placement) -> Placement | None:
        """Get the file of *last* ready to be written to; None if a new one is to be begun."""
        file, offset = last["file"], last["offset"]
        if file != self._name:
            name = FileName.parse(file)
            assert name is not None, "a writer's own placement"
            self._until, self._name = period_end(name.began, self._rotation), file
        if offset >= self._file_bytes_max or datetime.now(UTC) >= self._until:
            return None
        path = self._root / file
        if self._fd < 0:
            if offset == 0 and not path.exists() and is_writable(path, 0):
                self._begin(last)
            elif not can_go_on(path, offset):
                return None
            else:
                self._fd = open_file(path, os.O_WRONLY | os.O_APPEND, self._file_mode)
                self._files.names.add(file)
        try:
            status, ours = path.stat(), os.fstat(self._fd)
        except FileNotFoundError:
            return None
        if status.st_ino != ours.st_ino or not status.st_mode & WRITE_BITS:
            return None
        if status.st_size != offset:
            if status.st_size < offset:
                return None
            os.ftruncate(self._fd, offset)
            self._is_cut = self._is_unsynced = True
        return last

    def _next(self, last: Placement) -> Placement:
        was = FileName.parse(last["file"])
        assert was is not None, "a writer's own placement"
        now = datetime.now(UTC)
        if was.began.date() == now.date():
            # The clock may have been set back; a day's names are in order all the same.
            now = max(now, was.began + TICK)
        while (self._root / str(FileName(now, was.mark))).exists():
            now += TICK
        return place_of(str(FileName(now, was.mark)), 0)

    def _begin(self, place: Placement) -> None:
        self._finish_file()
        path = self._root / place["file"]
        make_dir(path.parent, self._file_mode)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
        self._fd = open_file(path, flags, self._file_mode)
        self._files.names.add(place["file"])
        if self._order[-1:] != [place["file"]]:
            self._order.append(place["file"])
        try:
            sync_dir(path.parent)
        except OSError:
            # Whoever finds the file makes its name safe.
            self.place = None
            raise

    def _write(self, parts: Sequence[Lines], place: Placement) -> None:
        # Until it is known how it ended.
        self.place = None
        self._is_unsynced = True
        try:
            write_all(self._fd, parts)
            if os.fstat(self._fd).st_nlink == 0:
                # Deleted since it was looked at; what was written is gone with it.
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except OSError:
            # Readers of the file should not see half a line until the next try succeeds.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, place["offset"])
                self._is_cut = True
                self.place = place
            raise
        self._begin_writeback(place["offset"], place["offset"] + sum(map(len, parts)))

    def _begin_writeback(self, offset: int, end: int) -> None:
        if self._begun is None or self._begun > offset:
            self._begun = offset
        # Not the last page, which what follows writes to.
        end -= end % PAGE_BYTES
        if end - self._begun >= WRITEBACK_BYTES:
            begin_writeback(self._fd, self._begun, end - self._begun)
            self._begun = end

    def _sync(self) -> None:
        if not self._is_unsynced:
            return
        place, self.place = self.place, None
        try:
            os.fdatasync(self._fd)
        except OSError:
            self.is_suspect = True
            raise
        self._is_unsynced = False
        self.place = place

    def _finish_file(self) -> None:
        """Sync the file that is left, and let go of it."""
        if self._fd >= 0:
            self._sync()
            self._let_go()

    def _let_go(self) -> None:
        fd, self._fd = self._fd, -1
        self._is_unsynced = self._is_cut = False
        self._begun = None
        if fd >= 0:
            os.close(fd)


def _new_name() -> str:
    """Return the name of a new writer's first file."""
    return str(FileName(datetime.now(UTC), secrets.token_hex(MARK_BYTES)))


def place_of(file: str, offset: int) -> Placement:
    """Return the placement of what comes next at *offset* of *file*."""
    # The bytes are what earlier releases look for.
    return {"file": file, "offset": offset, "bytes": 0}
