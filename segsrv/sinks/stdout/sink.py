"""Whole lines to standard output, for pipes and containers.

Several processes may have the same output: each writes while it holds the lock of one file, whose
content says whether whoever held it last may have stopped in the middle of a line. The next writer
then begins with a line end, so that a line which a crash cut off takes no other one with it.

A pipe takes up to PIPE_BUF bytes at once or not at all; so lines go out in groups of that size,
each when there is room for it. A thread of the sink's own waits for a slow reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import stat
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from segsrv.errors import SegsrvError, SinkClosed, SinkMisconfigured, SinkUnavailable
from segsrv.files import FILE_MODE, make_dir, open_file
from segsrv.sinks.base import Batch, Placement

STDOUT = 1
PIECE_BYTES = select.PIPE_BUF
FILE_PIECE_BYTES = 1 << 20
MARK_BYTES = 64
NO_MARK = b" " * MARK_BYTES
WAIT_S = 0.05
"""How long to wait for room, or for the lock, before looking whether the sink is being closed."""
GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)


def has_stdout() -> bool:
    """Say whether the process was started with a standard output.

    Without one, descriptor 1 is the first file that is opened, which may be a journal's.
    """
    return sys.__stdout__ is not None


class StdoutSink:
    """Writes every event at least once, in order.

    A batch that is cut off by a crash, or by a stop while the reader is slow, is written again from
    its start. Within a process it goes on where it was, however often `send` is called.
    """

    def __init__(self, lock_path: Path, *, fd: int = STDOUT, file_mode: int = FILE_MODE) -> None:
        self._lock_path = lock_path
        self._given_fd = fd
        self._file_mode = file_mode
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segsrv-stdout-sink")
        self._stopping = threading.Event()
        self._fd = self._lock_fd = -1
        self._piece_bytes = PIECE_BYTES
        self._mark = NO_MARK
        self._batch_id = ""
        self._written_bytes = 0
        self._sending: asyncio.Future[SegsrvError | None] | None = None

    async def check(self) -> None:
        try:
            os.fstat(self._given_fd)
        except OSError as error:
            raise SinkMisconfigured(f"sink=stdout:: {error.strerror}") from error

    async def open(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        except OSError as error:
            raise SinkUnavailable(f"stdout: {error.strerror or error}") from error

    async def plan(self, batch: Batch, last: Placement) -> Placement:  # noqa: ARG002
        return {}

    async def send(self, batch: Batch, placement: Placement) -> None:  # noqa: ARG002
        # A call that was cancelled, since the reader is slow, is still at it: it is joined, since
        # another one behind it would write the batch again.
        if self._sending is not None and not self._sending.done():
            await asyncio.shield(self._sending)
        loop = asyncio.get_running_loop()
        self._sending = loop.run_in_executor(self._thread, self._send, batch)
        error = await asyncio.shield(self._sending)
        if error is not None:
            raise error

    async def close(self) -> None:
        """Stop waiting for the reader, and let go of the output without closing it."""
        self._stopping.set()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def describe(self) -> str:
        return "stdout:"

    def _open(self) -> None:
        # First of all: if the output is closed, its number would be that of the next file.
        if self._fd < 0:
            self._fd = os.dup(self._given_fd)
        make_dir(self._lock_path.parent, self._file_mode)
        if self._lock_fd < 0:
            self._lock_fd = open_file(self._lock_path, os.O_RDWR | os.O_CREAT, self._file_mode)
            if os.fstat(self._lock_fd).st_size < MARK_BYTES:
                os.pwrite(self._lock_fd, NO_MARK, 0)
        status = os.fstat(self._fd)
        self._mark = (b"%d:%d" % (status.st_dev, status.st_ino)).ljust(MARK_BYTES)
        if stat.S_ISREG(status.st_mode):
            self._piece_bytes = FILE_PIECE_BYTES

    def _send(self, batch: Batch) -> SegsrvError | None:
        """Write what is still to be written of *batch*; return what kept it from its end.

        Returned, since nobody may be waiting for it any more.
        """
        if batch.id != self._batch_id:
            self._batch_id, self._written_bytes = batch.id, 0
        content = batch.content
        try:
            with self._alone():
                while self._written_bytes < len(content):
                    piece = self._next_piece(content)
                    self._write(piece)
                    self._written_bytes += len(piece)
        except OSError as error:
            if error.errno in GONE:
                return SinkClosed("stdout: nobody reads it any more")
            return SinkUnavailable(f"stdout: {error.strerror or error}")
        except SinkUnavailable as error:
            return error
        return None

    def _next_piece(self, content: bytes) -> memoryview:
        """Return as many whole lines as go out at once, or one that is longer than that."""
        start = self._written_bytes
        end = content.rfind(b"\n", start, start + self._piece_bytes) + 1
        end = end or content.find(b"\n", start) + 1 or len(content)
        return memoryview(content)[start:end]

    def _write(self, piece: memoryview) -> None:
        while piece:
            self._wait_for_room()
            try:
                written = os.write(self._fd, piece[: self._piece_bytes])
            except BlockingIOError:
                # It was handed over as non-blocking, and has less room than it said.
                self._stopping.wait(WAIT_S)
                self._go_on_unless_stopped()
            else:
                piece = piece[written:]

    def _wait_for_room(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not poll.poll(WAIT_S * 1_000):
            self._go_on_unless_stopped()

    def _go_on_unless_stopped(self) -> None:
        if self._stopping.is_set():
            raise SinkUnavailable("stdout: stopped while its reader was slow")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock; leave the mark of this output in its file if the end isn't reached."""
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._go_on_unless_stopped()
                self._stopping.wait(WAIT_S)
            else:
                break
        try:
            if os.pread(self._lock_fd, MARK_BYTES, 0) == self._mark:
                self._write(memoryview(b"\n"))
            # In place, which a full disk allows too.
            os.pwrite(self._lock_fd, self._mark, 0)
            yield
            os.pwrite(self._lock_fd, NO_MARK, 0)
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
