"""The parent of several processes: it starts, watches and stops them, and does nothing else.

Rules:
- The first start is all or nothing. A child that can't start (exit status 2 or 3) before all that
  are needed were ready ends the server with its status.
- After that a child that ends, for whatever reason, is started again: after 0.2 s, then twice as
  long each time up to 10 s, and after 0.2 s again once it ran for a minute. The others go on.
- A child that ends with SinkClosed's status ends the server with it: there is nobody left to
  deliver to.
- A stop asks the children that are not `is_last` first, and those when the others have ended, so
  that delivery still finds what the last requests brought. One that has not ended `stop_s_max`
  after it was asked is killed, and the exit status is 1.
- The children end by themselves when their parent is gone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from segsrv.errors import SegsrvError, SettingsError, SinkClosed

logger = logging.getLogger(__name__)

STARTUP_FAILURES = (SettingsError.exit_code, SegsrvError.exit_code)
"""Exit statuses of a process that could not start."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*STOP_SIGNALS, signal.SIGCHLD)
RESTART_S_MIN = 0.2
RESTART_S_MAX = 10.0
STEADY_S = 60.0
"""A child that ran so long has started well; when it ends, that is a new trouble."""
KILLED_S_MAX = 5.0
"""After SIGKILL; a process that is still there can't be helped, and is waited for no longer."""
LINE_INTERVAL_S = 60.0
INDEX_BYTES = 2
READ_BYTES = 4 << 10


@dataclass(slots=True, frozen=True)
class Start:
    """What a child is started with.

    It calls *on_ready* once it does its work. *parent_fd* is the reading end of a pipe that closes
    when the parent is gone; a process that has no parent ends itself *stop_s_max* after it was
    asked to, whatever hangs. With *is_quiet* it need not say why it can't start: that was said less
    than a minute ago.
    """

    on_ready: Callable[[], None]
    parent_fd: int | None = None
    stop_s_max: float | None = None
    is_quiet: bool = False


@dataclass(slots=True, frozen=True)
class Child:
    """A process to run: *run* is called in it and returns its exit status.

    Of those that are `is_needed` each must be ready before the server counts as started. One that
    `is_last` is stopped behind the others; SIGINT, which a terminal sends to all, does not reach
    it.
    """

    name: str
    run: Callable[[Start], int]
    stop_s_max: float
    is_needed: bool = True
    is_last: bool = False


@dataclass(slots=True)
class _State:
    """A child, and how it is; `pid` is 0 while it does not run."""

    child: Child
    pid: int = 0
    started_s: float = 0.0
    start_at_s: float = 0.0
    delay_s: float = RESTART_S_MIN
    kill_at_s: float | None = None
    is_killed: bool = False
    is_ready: bool = False
    is_quiet: bool = False
    said_s: float = -LINE_INTERVAL_S
    reason_said_s: float = -LINE_INTERVAL_S
    unsaid: int = 0


class Supervisor:
    """Runs *children*; *on_all_ready* is called when those that are needed do their work."""

    def __init__(self, children: Sequence[Child], on_all_ready: Callable[[], None]) -> None:
        self._states = [_State(child) for child in children]
        self._on_all_ready = on_all_ready
        self._is_started = False
        self._is_stopping = False
        self._status = 0
        self._parent_fd = self._alive_fd = self._ready_fd = self._report_fd = -1
        self._signal_fd = self._wakeup_fd = -1

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, or a start that fails; return the exit status."""
        self._parent_fd, self._alive_fd = os.pipe()
        self._ready_fd, self._report_fd = os.pipe2(os.O_NONBLOCK)
        self._signal_fd, self._wakeup_fd = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wakeup_fd, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._ask_to_stop)
        signal.signal(signal.SIGCHLD, lambda *_signal: None)
        # Not `select`, which knows the first 1,024 files only.
        woken = select.poll()
        for fd in (self._signal_fd, self._ready_fd):
            woken.register(fd, select.POLLIN)
        while True:
            self._start_due()
            self._stop_due()
            if self._is_stopping and not any(state.pid for state in self._states):
                return self._status
            wait_s = self._wait_s()
            woken.poll(None if wait_s is None else math.ceil(wait_s * 1_000))
            _empty(self._signal_fd)
            # Before the dead are looked for: one may have been ready and died since.
            self._take_ready()
            self._reap()

    def _ask_to_stop(self, *_signal: object) -> None:
        self._is_stopping = True

    def _wait_s(self) -> float | None:
        """Return how long nothing will be due."""
        now_s = time.monotonic()
        running = [state for state in self._states if state.pid]
        due_s = [state.kill_at_s for state in running if state.kill_at_s is not None]
        if not self._is_stopping:
            due_s += [state.start_at_s for state in self._states if self._may_start(state)]
        elif any(state.kill_at_s is None for state in self._to_end()):
            # The last of those before them was just left behind.
            return 0.0
        return max(min(due_s) - now_s, 0.0) if due_s else None

    def _start_due(self) -> None:
        for index, state in enumerate(self._states):
            if self._is_stopping:
                return
            if self._may_start(state) and state.start_at_s <= time.monotonic():
                self._start(index, state)

    def _may_start(self, state: _State) -> bool:
        """Say whether a child is not running and should be.

        One that is not needed comes behind those that are: of a start that fails, say for the data
        directory, only they have something to say.
        """
        return not state.pid and (self._is_started or state.child.is_needed)

    def _start(self, index: int, state: _State) -> None:
        # A stop meets either no child or one that is known, and no child has this one's handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        state.started_s = time.monotonic()
        state.is_ready = False
        state.is_quiet = state.started_s < state.reason_said_s + LINE_INTERVAL_S
        try:
            pid = os.fork()
            if pid == 0:
                self._be_child(index, state)
            state.pid = pid
        except OSError as error:
            if not state.is_quiet:
                logger.error("process can't be made name=%s: %s", state.child.name, error)  # noqa: TRY400
            self._ended(state, SegsrvError.exit_code)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _be_child(self, index: int, state: _State) -> NoReturn:
        """Run in the child that was just made, and end with it."""
        status = 1
        child = state.child
        try:
            signal.set_wakeup_fd(-1)
            for fd in (self._alive_fd, self._ready_fd, self._signal_fd, self._wakeup_fd):
                os.close(fd)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            if child.is_last:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

            def on_ready() -> None:
                # A parent that is gone is noticed by other means.
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._report_fd, index.to_bytes(INDEX_BYTES))

            status = child.run(Start(on_ready, self._parent_fd, is_quiet=state.is_quiet))
        except Exception:
            logger.exception("process failed name=%s", child.name)
        finally:
            logging.shutdown()
            os._exit(status)

    def _take_ready(self) -> None:
        data = _empty(self._ready_fd)
        for start in range(0, len(data), INDEX_BYTES):
            self._states[int.from_bytes(data[start : start + INDEX_BYTES])].is_ready = True
        if self._is_started or self._is_stopping:
            return
        if all(state.is_ready for state in self._states if state.child.is_needed):
            self._is_started = True
            self._on_all_ready()

    def _reap(self) -> None:
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # As the first process of a container this one gets orphans that are not its own.
            for state in self._states:
                if state.pid == pid:
                    state.pid = 0
                    self._ended(state, os.waitstatus_to_exitcode(wait_status))

    def _ended(self, state: _State, status: int) -> None:
        """Take note that a child has ended, or could not even be made."""
        if self._is_stopping:
            if state.is_killed:
                self._status = max(self._status, 1)
            elif state.is_ready:
                # One that was still starting may end as it likes: it had nothing to finish.
                self._status = max(self._status, abs(status))
            return
        if status in STARTUP_FAILURES and not self._is_started and state.child.is_needed:
            self._status = status
            self._is_stopping = True
            return
        if status == SinkClosed.exit_code:
            # Events would only pile up.
            self._status = status
            self._is_stopping = True
            return
        now_s = time.monotonic()
        if now_s - state.started_s >= STEADY_S:
            state.delay_s = RESTART_S_MIN
        state.start_at_s = now_s + state.delay_s
        state.delay_s = min(2 * state.delay_s, RESTART_S_MAX)
        state.unsaid += 1
        if status in STARTUP_FAILURES and not state.is_quiet:
            state.reason_said_s = now_s
        if now_s >= state.said_s + LINE_INTERVAL_S:
            logger.error(
                "process ended, starting it again name=%s status=%d count=%d",
                state.child.name,
                status,
                state.unsaid,
            )
            state.said_s, state.unsaid = now_s, 0

    def _stop_due(self) -> None:
        """Ask those to end whose turn it is, and end those that were asked and did not."""
        if not self._is_stopping:
            return
        now_s = time.monotonic()
        for state in self._to_end():
            if state.kill_at_s is None:
                state.kill_at_s = now_s + state.child.stop_s_max
                _send(state.pid, signal.SIGTERM)
                # One that somebody has stopped would not notice.
                _send(state.pid, signal.SIGCONT)
            elif now_s >= state.kill_at_s:
                self._kill(state)

    def _to_end(self) -> list[_State]:
        """Return the children whose turn it is to end."""
        running = [state for state in self._states if state.pid]
        return [state for state in running if not state.child.is_last] or running

    def _kill(self, state: _State) -> None:
        name, pid = state.child.name, state.pid
        if state.is_killed:
            # A call into the kernel that does not return, to a disk that is gone for example.
            logger.error("process can't be killed, left behind name=%s pid=%d", name, pid)
            state.pid = 0
            self._ended(state, -signal.SIGKILL)
            return
        logger.error(
            "process did not stop within %g s, killed name=%s pid=%d",
            *(state.child.stop_s_max, name, pid),
        )
        state.is_killed = True
        state.kill_at_s = time.monotonic() + KILLED_S_MAX
        _send(pid, signal.SIGKILL)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _empty(fd: int) -> bytes:
    """Return what is in a pipe that does not block."""
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(fd, READ_BYTES):
            parts.append(part)
    return b"".join(parts)
