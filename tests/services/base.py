"""Servers that sinks deliver to, as children of the tests: started, ended, frozen and killed.

Each runs in a session of its own, with its output in a file. Signals go to the server and all its
descendants, of which some lead sessions of their own, such as PostgreSQL's.
"""

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.needs import skip_or_fail
from tests.services import reaper
from tests.services.free_ports import release_port, take_port
from tests.services.reaper import family_of, freeze, signal_all, stat

BUILD = Path(__file__).resolve().parent / "build"
"""Where the scripts that install services put what they download; git ignores it."""
POLL_INTERVAL_S = 0.02
CONNECT_TIMEOUT_S = 1.0
GONE_TIMEOUT_S = 10.0
TAIL_BYTES = 4_000
_reapers: list[subprocess.Popen[bytes]] = []
_lock = threading.Lock()


class Service:
    """One server on a port of its own, which stays the same over restarts, as its data does.

    A subclass says how to start it (`command`) and how to see that it answers (`is_ready`).
    `folder` is for configuration and the log; `data_dir` may be on another, small disk.
    """

    name: ClassVar[str]
    start_timeout_s: ClassVar[float] = 60.0
    stop_timeout_s: ClassVar[float] = 30.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    port_offsets: ClassVar[tuple[int, ...]] = ()
    """The server takes these ports too, counted from its `port`."""

    def __init__(self, folder: Path, *, data_dir: Path | None = None) -> None:
        self.folder = folder
        self.data_dir = data_dir or folder / "data"
        self.port = take_port(*self.port_offsets)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def installed(cls) -> str | None:
        """Say what is missing and which script installs it; None if all is there."""
        return None

    @classmethod
    def require(cls) -> None:
        """Skip the test if the server is not installed, and fail it in CI."""
        if (missing := cls.installed()) is not None:
            skip_or_fail(missing)

    def prepare(self) -> None:
        """Make what the server needs before it starts; called before each start.

        It must leave alone the data of an earlier one. Both folders are there.
        """

    def command(self) -> list[str]:
        """Return the server's command line."""
        raise NotImplementedError

    def environ(self) -> Mapping[str, str]:
        """Return variables that the server gets beside those of the tests."""
        return {}

    def is_ready(self) -> bool:
        """Say whether the server really answers; called until it does. OSError means no."""
        return is_listening(self.port)

    @property
    def url(self) -> str:
        """Where a developer points a sink."""
        return f"127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers; it may have run before.

        Raises:
            RuntimeError: It is running, ended at once, or did not answer in time.

        """
        if self.is_running:
            raise RuntimeError(f"{self.name} is running")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.prepare()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**os.environ, **self.environ()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _tell_reaper(f"+{self.pid}")
        atexit.register(self.kill)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End the server as its operator would; with SIGKILL if that takes too long."""
        if self._process is None:
            return
        if self.is_running:
            self.resume()
            self._process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.stop_timeout_s)
        self.kill()

    def kill(self) -> None:
        """End the server and its descendants with SIGKILL, as a machine that stops would."""
        atexit.unregister(self.kill)
        if self._process is None:
            return
        family = freeze(self.pid) if self.is_running else []
        signal_all(family, signal.SIGKILL)
        self._process.wait()
        _tell_reaper(f"-{self.pid}")
        # Those that are left belong to process 1, which may be slow to collect them.
        _wait_until_gone(family)

    def pause(self) -> None:
        """Freeze the server: connections stay open, and nothing is answered."""
        freeze(self.pid)

    def resume(self) -> None:
        """Let a frozen server go on; one that is dead stays so."""
        if self.is_running:
            signal_all(family_of(self.pid), signal.SIGCONT)

    def close(self) -> None:
        """Kill the server and give its port back, after which it can't be started again."""
        self.kill()
        release_port(self.port)

    def log_tail(self) -> str:
        if not self.log_path.exists():
            return ""
        return self.log_path.read_bytes()[-TAIL_BYTES:].decode(errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while True:
            exit_code = None if self._process is None else self._process.poll()
            if exit_code is not None:
                raise RuntimeError(f"{self.name} ended with {exit_code}\n{self.log_tail()}")
            with contextlib.suppress(OSError):
                if self.is_ready():
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"{self.name} did not answer within {self.start_timeout_s} s\n{self.log_tail()}"
                )
            time.sleep(POLL_INTERVAL_S)


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _tell_reaper(line: str) -> None:
    """Start the process that kills what this one leaves behind, and tell it *line*."""
    with _lock:
        if not _reapers:
            # Registered before any service, and so called after all of them have ended.
            atexit.register(_end_reaper)
            # A session of its own: Ctrl-C is for the tests, which end their services by themselves.
            _reapers.append(
                subprocess.Popen(
                    [sys.executable, str(Path(reaper.__file__))],
                    stdin=subprocess.PIPE,
                    start_new_session=True,
                )
            )
        pipe = _reapers[0].stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            pipe.write(f"{line}\n".encode())
            pipe.flush()


def _end_reaper() -> None:
    with contextlib.suppress(BrokenPipeError):
        _reapers[0].communicate()


def _wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while any((known := stat(pid)) is not None and known[0] not in "ZX" for pid in pids):
        if time.monotonic() > deadline:
            raise RuntimeError(f"one of the processes {pids} did not end")
        time.sleep(POLL_INTERVAL_S)
