"""The real server as a child process, for tests that need more than an application object.

The child is `python -m segsrv serve` of this work tree, or another program with the same flags,
on a free loopback port. It is ready when it prints where it listens. Its output goes to files
beside the data directory, not to pipes, so a talkative server cannot block; a test of pipes gives
it one as `stdout`. Only the process started here is ever signalled.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parent.parent
MOUNTED = (str(REPOSITORY / "tests" / "mounted_server.py"),)
"""The `program` that serves segsrv mounted in another application."""
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.02
TAIL_CHARS = 4000

_LISTENING = re.compile(r"listening on (https?://127\.0\.0\.1:(\d+)\S*)\n")


class ServerProcess:
    """Run the server on `data_dir` for the length of a `with` block.

    For a restart, open a second `ServerProcess` on the same directory after the first ended.
    """

    def __init__(
        self,
        data_dir: Path,
        *args: str,
        write_keys: Sequence[str] = ("test-key",),
        environ: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "segsrv"),
        umask: int = -1,
        stdout: int | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.write_keys = tuple(write_keys)
        self.url = ""
        self.port = 0
        self._args = args
        self._program = tuple(program)
        self._environ = dict(environ or {})
        self._umask = umask
        self._stdout = stdout
        self._process: subprocess.Popen[bytes] | None = None
        self._stdout_path = self.data_dir.parent / f"{self.data_dir.name}.stdout"
        self._stderr_path = self.data_dir.parent / f"{self.data_dir.name}.stderr"

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

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while the server runs; minus the signal if one ended it."""
        return self._started.poll()

    @property
    def stdout(self) -> str:
        """What all servers on this data directory printed so far."""
        return _read_text(self._stdout_path)

    @property
    def stderr(self) -> str:
        """What all servers on this data directory logged so far."""
        return _read_text(self._stderr_path)

    def start(self) -> None:
        """Start the server and wait until it listens."""
        if self._process is not None:
            raise RuntimeError("already started; open another ServerProcess to restart")
        keys = [part for key in self.write_keys for part in ("--write-key", key)]
        command = [sys.executable, *self._program, "serve", "--host", "127.0.0.1", "--port", "0"]
        command += ["--data-dir", str(self.data_dir), *keys, *self._args]
        # The caller's settings must not leak into the server under test.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SEGSRV_")}
        self._stdout_path.parent.mkdir(parents=True, exist_ok=True)
        with self._stdout_path.open("ab") as stdout, self._stderr_path.open("ab") as stderr:
            # A restart appends to the same file, so its banner is looked for after this point.
            banner_from = (stderr if self._is_stdout_a_sink else stdout).tell()
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=inherited | self._environ,
                stdin=subprocess.DEVNULL,
                stdout=stdout if self._stdout is None else self._stdout,
                stderr=stderr,
                umask=self._umask,
            )
        try:
            self._wait_for_banner(banner_from)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Ask the server to end, wait for it and return its exit code."""
        process = self._started
        if process.poll() is None:
            process.terminate()
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"server ignored SIGTERM for {timeout_s} s\n{self._tail()}"
            ) from None

    def kill(self) -> int:
        """End the server with SIGKILL, as a crash would, and return its exit code."""
        process = self._started
        process.kill()
        return process.wait()

    def events(self) -> list[dict[str, Any]]:
        """All stored events, file by file in the order of their names.

        A last line without its newline is still being written and does not count yet.
        """
        lines: list[bytes] = []
        for path in sorted((self.data_dir / "events").glob("**/*.ndjson")):
            lines += path.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def wait_for_events(self, count: int, timeout_s: float = 10.0) -> list[dict[str, Any]]:
        """Return the stored events as soon as there are at least `count`."""
        deadline = time.monotonic() + timeout_s
        while len(stored := self.events()) < count:
            if time.monotonic() > deadline:
                listing = "\n".join(json.dumps(event) for event in stored)[-TAIL_CHARS:]
                raise AssertionError(
                    f"{len(stored)} of {count} events stored after {timeout_s} s\n"
                    f"{listing}\n{self._tail()}"
                )
            time.sleep(POLL_INTERVAL_S)
        return stored

    @property
    def _is_stdout_a_sink(self) -> bool:
        return any("stdout:" in arg for arg in self._args)

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process

    def _wait_for_banner(self, banner_from: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            # Asked before reading: what an ended process printed is complete.
            exit_code = self.exit_code
            path = self._stderr_path if self._is_stdout_a_sink else self._stdout_path
            printed = path.read_bytes()[banner_from:].decode(errors="replace")
            if match := _LISTENING.search(printed):
                self.url, self.port = match[1], int(match[2])
                return
            if exit_code is not None:
                raise AssertionError(f"server ended with {exit_code} at start\n{self._tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"server did not listen within {START_TIMEOUT_S} s\n{self._tail()}"
                )
            time.sleep(POLL_INTERVAL_S)

    def _tail(self) -> str:
        return f"stderr of the server:\n{self.stderr[-TAIL_CHARS:]}"


def _read_text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
