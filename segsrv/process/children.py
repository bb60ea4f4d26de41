"""What a server's processes are, for their parent: what to run, and how each of them is."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from segsrv.process.handover import Successor
from segsrv.process.roster import Place

RESTART_S_MIN = 0.2
RESTART_S_MAX = 10.0
STEADY_S = 60.0
"""A child that ran so long has started well; when it ends, that is a new trouble."""
LINE_INTERVAL_S = 60.0
AGAIN_S_MIN = 1.0
"""Between two SIGINT that mean it; a shell's wrapper may pass on what the terminal sent to all."""


@dataclass(slots=True, frozen=True)
class Start:
    """What a child is started with.

    It calls *on_ready* once it does its work, and from then on its loop writes *place*. *parent_fd*
    is the reading end of a pipe that closes when the parent is gone. A process that has no parent
    ends itself *stop_s_max* after it was asked to, whatever hangs, and may be asked to make room
    for its *successor*. With *is_quiet* it need not say why it can't start: that was said less than
    a minute ago.
    """

    on_ready: Callable[[], None]
    place: Place | None = None
    parent_fd: int | None = None
    stop_s_max: float | None = None
    successor: Successor | None = None
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
class State:
    """A child, and how it is; `pid` is 0 while it does not run.

    One that `is_old` was started by the program before this one in the same process, and is to be
    replaced. After `kill_at_s` it is killed, or killed already and left behind; None if it is not
    asked to end. Times are of the monotonic clock.
    """

    child: Child
    place: Place
    pid: int = 0
    started_s: float = 0.0
    start_at_s: float = 0.0
    delay_s: float = RESTART_S_MIN
    kill_at_s: float | None = None
    is_killed: bool = False
    is_hung: bool = False
    is_ready: bool = False
    is_old: bool = False
    is_quiet: bool = False
    said_s: float = -LINE_INTERVAL_S
    reason_said_s: float = -LINE_INTERVAL_S
    unsaid: int = 0

    def described(self) -> dict[str, Any]:
        """Return what the next program has to know of the child, for JSON."""
        return {
            "pid": self.pid,
            "started_s": self.started_s,
            "start_at_s": self.start_at_s,
            "delay_s": self.delay_s,
            "kill_at_s": self.kill_at_s,
            "is_killed": self.is_killed,
            "is_hung": self.is_hung,
            "is_ready": self.is_ready,
        }

    def adopt(self, described: dict[str, Any]) -> None:
        """Take over a child of the program before; it runs that program still."""
        for name, value in described.items():
            setattr(self, name, value)
        self.is_old = self.pid != 0

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the child, if it is there."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
