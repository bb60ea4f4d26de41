"""Open files in hand, for when the process may open no more of them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable

SPARE = 2
"""One for the segment that is written next, one for what is read or looked at meanwhile."""


class SpareFiles:
    """Opens and closes files; gives a spare one up when the limit of open files is reached.

    Connections take every file that is free, so what is given up is taken back by `close`, which
    turns the file that it is given into a spare one. Callable from any thread.
    """

    def __init__(self) -> None:
        self._source = os.open(os.devnull, os.O_RDONLY)
        self._spare = [os.dup(self._source) for _number in range(SPARE)]
        self._lock = threading.Lock()

    def open(self, open_file: Callable[[], int]) -> int:
        """Return what *open_file* does, with one more file to be had where there is none left.

        Raises:
            OSError: It can't be opened even so.

        """
        try:
            return open_file()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        with self._lock:
            if self._spare:
                os.close(self._spare.pop())
            return open_file()

    def close(self, fd: int) -> None:
        """Close *fd*, or keep its place for the next file that is needed."""
        with self._lock:
            if self._source >= 0 and len(self._spare) < SPARE:
                # In one step: a place that is free for a moment is a connection's.
                self._spare.append(os.dup2(self._source, fd, inheritable=False))
            else:
                os.close(fd)

    def release(self) -> None:
        """Close what is in hand."""
        with self._lock:
            for fd in (self._source, *self._spare):
                if fd >= 0:
                    os.close(fd)
            self._source = -1
            self._spare = []
