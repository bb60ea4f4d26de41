"""A real server on a disk that is too full to take events, until a test makes room again."""

import fcntl
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.server_process import ServerProcess
from tests.waiting import wait_until

MIB = 1 << 20
BALLAST_BYTES_MAX = 1024 * MIB
TURN_DEADLINE_S = 120.0


class Outage:
    """Run a server that answers 503 with `Retry-After: 1` until `end()`.

    A ballast file beside the data directory fills the disk up to the server's own limit, so that
    its journal refuses events as it does on a disk that really is full. The limit lies half the
    ballast away from the free space on both sides: others may use the disk at the same time.
    """

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        write_keys: tuple[str, ...] = ("test-key",),
        program: tuple[str, ...] = ("-m", "segsrv"),
    ) -> None:
        self.server: ServerProcess
        self._data_dir = data_dir.resolve()
        self._flags = flags
        self._options = {"write_keys": write_keys, "program": program}
        self._ballast = self._data_dir.parent / f"{self._data_dir.name}.ballast"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_Turn())
            stack.callback(self.end)
            self._data_dir.parent.mkdir(parents=True, exist_ok=True)
            ballast_bytes = min(BALLAST_BYTES_MAX, _free_bytes(self._data_dir.parent) // 10)
            with self._ballast.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, ballast_bytes)
            limit = _free_bytes(self._data_dir.parent) + ballast_bytes // 2
            full = ("--disk-free-bytes-min", str(limit), "--retry-after-s", "1")
            self.server = stack.enter_context(
                ServerProcess(self._data_dir, *full, *self._flags, **self._options)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def end(self) -> None:
        """Make room; the very next event is taken."""
        self._ballast.unlink(missing_ok=True)


class _Turn:
    """One outage at a time on this machine: the ballast of another would shift the free space."""

    def __enter__(self) -> Self:
        self._file = (Path(tempfile.gettempdir()) / f"segsrv-outage-{os.getuid()}.lock").open("wb")
        try:
            wait_until(self._is_mine, deadline_s=TURN_DEADLINE_S)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def _is_mine(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _free_bytes(directory: Path) -> int:
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize
