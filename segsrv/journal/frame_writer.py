"""How a frame gets into a segment's file, and onto stable storage.

In one call where the kernel has one for it, else with a write and a sync. Behind a small frame that
reaches the end of the file, zeros are written with it: room for the next ones. A commit that only
overwrites has no size and no new place of the file to make safe, and takes half the time. What is
left of the room goes when the file is sealed or closed, and when a start finds it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence

from segsrv.files import is_full, write_all_at

logger = logging.getLogger(__name__)

ROOM_BYTES = 256 << 10
ROOM_FRAME_BYTES_MAX = 64 << 10
"""A larger frame costs more by itself than room would save."""
NO_DSYNC = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM})
"""What kernels, file systems and sandboxes say that do not know a write with its own sync."""
_ROOM = memoryview(bytes(ROOM_BYTES))


class FrameWriter:
    """Writes to one file after the other; belongs to the log's owner.

    With `has_dsync` a frame is written and synced in one call, until the kernel says that it can't.
    """

    def __init__(self, *, is_synced: bool) -> None:
        self.has_dsync = hasattr(os, "RWF_DSYNC")
        self.is_synced = is_synced
        self._room_end = 0

    def begin(self) -> None:
        """Go on with another file."""
        self._room_end = 0

    def write(self, fd: int, parts: Sequence[bytes], offset: int, *, size_max: int) -> None:
        """Write a frame at *offset*, the end of what the file holds; on stable storage if synced.

        A segment's header shares a block with its first frame, and so its sync. Room ends at
        *size_max*.

        Raises:
            OSError: The disk refused; anything of the frame may be there.

        """
        end = offset + sum(map(len, parts))
        room_bytes = min(size_max - end, ROOM_BYTES)
        is_small = end - offset <= ROOM_FRAME_BYTES_MAX
        if self.is_synced and is_small and end > self._room_end and room_bytes > 0:
            try:
                self._write(fd, [*parts, _ROOM[:room_bytes]], offset)
            except OSError as error:
                if not is_full(error):
                    raise
                # There may be room for the frame itself.
            else:
                self._room_end = end + room_bytes
                return
        self._write(fd, parts, offset)

    def trim(self, fd: int, size: int) -> None:
        """Let a file that is left end behind its last frame, at *size*, and go on with another."""
        if self._room_end > size:
            try:
                # It may have been cut short by somebody, and is not made longer.
                if os.fstat(fd).st_size > size:
                    os.ftruncate(fd, size)
            except OSError as error:
                logger.warning("journal: a file keeps the room in it: %s", error)
        self.begin()

    def _write(self, fd: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
        if self.is_synced and self.has_dsync:
            try:
                write_all_at(fd, parts, offset, os.RWF_DSYNC)
            except OSError as error:
                if error.errno not in NO_DSYNC:
                    raise
                # Written again as a whole: whatever of it was written is not safe.
                self.has_dsync = False
                logger.info("journal: a commit takes a write and a sync: %s", error.strerror)
            else:
                return
        write_all_at(fd, parts, offset)
        if self.is_synced:
            os.fdatasync(fd)
