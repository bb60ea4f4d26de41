"""Pipes for the tests of standard output: who has which end, and what came out."""

import os
import select
import threading


class Reader(threading.Thread):
    """Reads until every writing end is closed."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self.data = b""
        self._fd = fd
        self.start()

    @property
    def lines(self) -> list[bytes]:
        """Every line that has its end."""
        return self.data.splitlines(keepends=True)[: self.data.count(b"\n")]

    def run(self) -> None:
        while piece := os.read(self._fd, 1 << 20):
            self.data += piece


class Pipe:
    """Both ends of a pipe, each closed at most once."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._open = {self.reader, self.writer}

    @property
    def is_full(self) -> bool:
        return not select.select([], [self.writer], [], 0)[1]

    def read_available(self) -> bytes:
        data = b""
        while select.select([self.reader], [], [], 0)[0]:
            if not (piece := os.read(self.reader, 1 << 20)):
                break
            data += piece
        return data

    def read_in_background(self) -> Reader:
        return Reader(self.reader)

    def close_reader(self) -> None:
        self._close(self.reader)

    def close_writer(self) -> None:
        self._close(self.writer)

    def close(self) -> None:
        # The writer first: that ends whoever reads.
        self._close(self.writer)
        self._close(self.reader)

    def _close(self, fd: int) -> None:
        if fd in self._open:
            self._open.discard(fd)
            os.close(fd)
