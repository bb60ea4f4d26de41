"""The parent of several processes: it starts, watches, replaces and stops them.

Rules:
- The first start is all or nothing. A child that can't start (exit status 2 or 3) before all that
  are needed were ready ends the server with its status.
- After that a child that ends, for whatever reason, is started again: after 0.2 s, then twice as
  long each time up to 10 s, and after 0.2 s again once it ran for a minute. The others go on.
- One whose event loop has stood still for `HUNG_S` is killed, and then it has ended.
- A child that ends with SinkClosed's status ends the server with it: there is nobody left to
  deliver to.
- At SIGUSR2 the parent becomes the next program, see `handover`, which then replaces the children
  of the one before: one at a time, those that are `is_last` first. Each next one waits until all
  others are ready, so that a program whose processes can't start does no more harm. Another SIGUSR2
  begins anew.
- A stop asks the children that are not `is_last` first, and those when the others have ended, so
  that delivery still finds what the last requests brought. One that has not ended `stop_s_max`
  after it was asked is killed, and the exit status is 1. A second SIGINT, not at once, kills all.
- At SIGHUP all children look for new keys.
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
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from segsrv.errors import SegsrvError, SettingsError, SinkClosed
from segsrv.process.children import (
    AGAIN_S_MIN,
    LINE_INTERVAL_S,
    RESTART_S_MAX,
    RESTART_S_MIN,
    STEADY_S,
    Child,
    Start,
    State,
)
from segsrv.process.handover import (
    HELD_SIGNALS,
    STOP_SIGNALS,
    Handover,
    hold_signals,
    release_signals,
)
from segsrv.process.roster import Roster
from segsrv.process.succession import Succession

logger = logging.getLogger(__name__)

STARTUP_FAILURES = (SettingsError.exit_code, SegsrvError.exit_code)
"""Exit statuses of a process that could not start."""
KILLED_S_MAX = 5.0
"""After SIGKILL; a process that is still there can't be helped, and is waited for no longer."""
HUNG_S = 30.0
WATCH_INTERVAL_S = 5.0
LATE_S = 1.0
"""A parent that comes so late was halted, most likely with its children, and forgives them."""
PIPE_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
INDEX_BYTES = 2
READ_BYTES = 4 << 10


class Supervisor:
    """Runs *children*, which write their lines of *roster* in this order.

    *on_all_ready* is called when those that are needed do their work; it is not when *handed* has
    children of a program before this one. *succession* is what SIGUSR2 asks for. A child that is
    silent for *hung_s*, `HUNG_S` by default, counts as hung.
    """

    def __init__(
        self,
        children: Sequence[Child],
        on_all_ready: Callable[[], None],
        *,
        roster: Roster,
        succession: Succession | None = None,
        handed: Handover | None = None,
        hung_s: float | None = None,
    ) -> None:
        self._states = list(map(State, children, roster.places))
        self._on_all_ready = on_all_ready
        self._succession = succession
        self._hung_s = HUNG_S if hung_s is None else hung_s
        self._is_started = self._is_rolling = handed is not None
        self._stop_asked_s: float | None = None
        self._is_stopping = False
        self._is_at_once = False
        self._status = 0
        self._awake_s = 0.0
        self._files = self._pipes(handed)
        if succession is not None:
            succession.keep(self._files)
        self._signal_fd = self._wakeup_fd = -1
        if handed is not None:
            for state in self._states:
                if state.child.name in handed.children:
                    state.adopt(handed.children[state.child.name])

    @staticmethod
    def _pipes(handed: Handover | None) -> dict[str, int]:
        names = ("parent", "alive", "ready", "report")
        if handed is not None:
            return {name: handed.files[name] for name in names}
        return dict(zip(names, (*os.pipe(), *os.pipe2(PIPE_FLAGS)), strict=True))

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, or a start that fails; return the exit status."""
        self._signal_fd, self._wakeup_fd = os.pipe2(PIPE_FLAGS)
        signal.set_wakeup_fd(self._wakeup_fd, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._ask_to_stop)
        signal.signal(signal.SIGCHLD, lambda *_signal: None)
        signal.signal(signal.SIGUSR2, self._ask_to_roll)
        signal.signal(signal.SIGHUP, self._pass_on)
        release_signals()
        # Not `select`, which knows the first 1,024 files only.
        woken = select.poll()
        for fd in (self._signal_fd, self._files["ready"]):
            woken.register(fd, select.POLLIN)
        self._awake_s = time.monotonic()
        # A child of the program before may have ended unseen.
        self._reap()
        while True:
            self._start_due()
            self._roll_due()
            self._stop_due()
            if self._is_stopping and not any(state.pid for state in self._states):
                # One more would end the process in its last moments, and change its exit status.
                hold_signals()
                return self._status
            wait_s = self._wait_s()
            due_s = math.inf if wait_s is None else time.monotonic() + wait_s
            woken.poll(None if wait_s is None else math.ceil(wait_s * 1_000))
            if time.monotonic() > due_s + LATE_S:
                self._awake_s = time.monotonic()
            _empty(self._signal_fd)
            # Before the dead are looked for: one may have been ready and died since.
            self._take_ready()
            self._reap()

    def _ask_to_stop(self, number: int, _frame: object) -> None:
        now_s = time.monotonic()
        if self._stop_asked_s is None:
            self._stop_asked_s = now_s
        elif number == signal.SIGINT and now_s >= self._stop_asked_s + AGAIN_S_MIN:
            self._is_at_once = True
        self._is_stopping = True

    def _pass_on(self, number: int, _frame: object) -> None:
        """Ask all children that are ready to read their keys; others have just read them."""
        for state in self._states:
            if state.pid and state.is_ready:
                state.send(signal.Signals(number))

    def _ask_to_roll(self, *_signal: object) -> None:
        if self._succession is not None:
            self._succession.ask()

    def _wait_s(self) -> float | None:
        """Return how long nothing will be due."""
        now_s = time.monotonic()
        running = [state for state in self._states if state.pid]
        due_s = [state.kill_at_s for state in running if state.kill_at_s is not None]
        if self._succession is not None and self._succession.end_at_s is not None:
            due_s.append(self._succession.end_at_s)
        if not self._is_stopping:
            due_s += [state.start_at_s for state in self._states if self._may_start(state)]
            if any(state.is_ready for state in running):
                due_s.append(now_s + min(WATCH_INTERVAL_S, self._hung_s / 2))
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

    def _may_start(self, state: State) -> bool:
        """Say whether a child is not running and should be.

        One that is not needed comes behind those that are: of a start that fails, say for the data
        directory, only they have something to say.
        """
        return not state.pid and (self._is_started or state.child.is_needed)

    def _start(self, index: int, state: State) -> None:
        # A stop meets either no child or one that is known, and no child has this one's handlers.
        hold_signals()
        state.started_s = time.monotonic()
        state.is_ready = state.is_old = state.is_killed = state.is_hung = False
        state.kill_at_s = None
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
            release_signals()

    def _be_child(self, index: int, state: State) -> NoReturn:
        """Run in the child that was just made, and end with it."""
        status = 1
        child = state.child
        try:
            signal.set_wakeup_fd(-1)
            for fd in (self._files["alive"], self._files["ready"], self._signal_fd):
                os.close(fd)
            os.close(self._wakeup_fd)
            for number in HELD_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            # Meant for the parent, and sent to all processes of a service by some.
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            if child.is_last:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            release_signals()

            def on_ready() -> None:
                # A parent that is gone is noticed by other means.
                state.place.beat()
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._files["report"], index.to_bytes(INDEX_BYTES))

            start = Start(on_ready, state.place, self._files["parent"], is_quiet=state.is_quiet)
            status = child.run(start)
        except Exception:
            logger.exception("process failed name=%s", child.name)
        finally:
            logging.shutdown()
            os._exit(status)

    def _take_ready(self) -> None:
        data = _empty(self._files["ready"])
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
            status = os.waitstatus_to_exitcode(wait_status)
            # As the first process of a container this one gets orphans that are not its own.
            if self._succession is not None and pid == self._succession.rehearsal_pid:
                self._succession.rehearsed(status)
            for state in self._states:
                if state.pid == pid:
                    state.pid = 0
                    self._ended(state, status)

    def _ended(self, state: State, status: int) -> None:
        """Take note that a child has ended, or could not even be made."""
        state.place.clear()
        if self._is_stopping:
            if state.is_killed:
                self._status = max(self._status, 1)
            elif state.is_ready:
                # One that was still starting may end as it likes: it had nothing to finish.
                self._status = max(self._status, abs(status))
            return
        is_first_start = not self._is_started and state.child.is_needed
        if status == SinkClosed.exit_code or (status in STARTUP_FAILURES and is_first_start):
            # Events would only pile up without a sink.
            self._status = status
            self._is_stopping = True
            return
        now_s = time.monotonic()
        if state.kill_at_s is not None and not state.is_hung:
            # It was asked to make room.
            state.start_at_s = now_s
            return
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

    def _roll_due(self) -> None:
        """Replace one child of the program before, or become the next program."""
        if self._is_stopping:
            if self._succession is not None:
                self._succession.give_up()
            return
        if self._succession is not None and self._is_started and self._succession.is_due():
            self._succession.execute(self._described())
        if not self._is_rolling:
            return
        old = [state for state in self._states if state.is_old]
        if all(state.is_ready and state.pid for state in self._states) and not any(
            state.kill_at_s is not None for state in self._states
        ):
            if old:
                self._ask_to_end(min(old, key=lambda state: not state.child.is_last))
            else:
                self._is_rolling = False
                logger.info("rolling restart is done processes=%d", len(self._states))

    def _described(self) -> Mapping[str, dict[str, object]]:
        return {state.child.name: state.described() for state in self._states}

    def _stop_due(self) -> None:
        """Ask those to end whose turn it is, and end those that were asked and did not, or hang."""
        now_s = time.monotonic()
        if self._is_at_once:
            for state in self._states:
                if state.pid and not state.is_killed:
                    self._kill(state, "is not waited for, killed")
        for state in self._to_end() if self._is_stopping else ():
            if state.kill_at_s is None:
                self._ask_to_end(state)
        for state in self._states:
            if not state.pid:
                continue
            if state.kill_at_s is not None:
                if now_s >= state.kill_at_s:
                    limit_s = state.child.stop_s_max
                    self._kill(state, f"did not stop within {limit_s:g} s, killed")
            elif state.is_ready and not self._is_stopping:
                silent_s = now_s - max(state.place.seen_s, self._awake_s)
                if silent_s >= self._hung_s:
                    state.is_hung = True
                    self._kill(state, f"hangs for {silent_s:.0f} s, killed")

    def _ask_to_end(self, state: State) -> None:
        state.kill_at_s = time.monotonic() + state.child.stop_s_max
        state.send(signal.SIGTERM)
        # One that somebody has stopped would not notice.
        state.send(signal.SIGCONT)

    def _to_end(self) -> list[State]:
        """Return the children whose turn it is to end."""
        running = [state for state in self._states if state.pid]
        return [state for state in running if not state.child.is_last] or running

    def _kill(self, state: State, why: str) -> None:
        name, pid = state.child.name, state.pid
        if state.is_killed:
            # A call into the kernel that does not return, to a disk that is gone for example.
            logger.error("process can't be killed, left behind name=%s pid=%d", name, pid)
            state.pid = 0
            self._ended(state, -signal.SIGKILL)
            return
        logger.error("process %s name=%s pid=%d", why, name, pid)
        state.is_killed = True
        state.kill_at_s = time.monotonic() + KILLED_S_MAX
        state.send(signal.SIGKILL)


def _empty(fd: int) -> bytes:
    """Return what is in a pipe that does not block."""
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(fd, READ_BYTES):
            parts.append(part)
    return b"".join(parts)
