"""A server that restarts in place: the next program gets its process, its sockets and its children.

At SIGUSR2 the same command is run once more: first as a rehearsal, in a child, that reads the
settings, looks whether a server could start with them in this one's place, and changes nothing.
Only if it ends well does this process execute the command. What it has open stays open, above all
the listening sockets: connections wait in their queues and none is refused.

What the next program must know is in one variable of its environment, as JSON. It is for a process
with the same id. A rehearsal serves never, also where the server that asked for it is gone by then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from segsrv import board, rates
from segsrv.errors import SegsrvError, SettingsError
from segsrv.process import roster
from segsrv.settings import Settings

VARIABLE = "_SEGSRV_HANDOVER"
FORMAT = f"1.{board.LAYOUT}.{roster.LAYOUT}.{rates.LAYOUT}"
"""Of what is handed over. Another one needs an ordinary restart, as the rehearsal says."""
REHEARSAL_S_MAX = 60.0
"""A command that takes longer is killed, and the server goes on as it is."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
HELD_SIGNALS = (*STOP_SIGNALS, signal.SIGCHLD, signal.SIGUSR2, signal.SIGHUP)
"""Wait while no handler is there for them: from one program until the next one is set up."""


@dataclass(slots=True, kw_only=True)
class Handover:
    """What one program leaves to the next.

    *fixed* holds the settings that can't change. *files* are descriptors by name, and *children*
    what is known of each child by name; both are empty for a rehearsal.
    """

    fixed: dict[str, Any]
    pid: int = field(default_factory=os.getpid)
    is_rehearsal: bool = False
    files: dict[str, int] = field(default_factory=dict)
    children: dict[str, dict[str, Any]] = field(default_factory=dict)

    def some_files(self, names: Iterable[str]) -> list[int]:
        """Return the descriptors of these names."""
        return [self.files[name] for name in names]

    def check(self, settings: Settings) -> None:
        """Learn whether a server with *settings* can go on in the place of the one before.

        Raises:
            SettingsError: A setting has changed that can't without an ordinary restart.

        """
        wanted = fixed(settings)
        changed = [name for name in wanted if wanted[name] != self.fixed.get(name)]
        if changed:
            raise SettingsError(f"{', '.join(changed)}: has changed, which needs a whole restart")


def fixed(settings: Settings) -> dict[str, Any]:
    """Return the settings that say which sockets, processes and files a server is made of."""
    return {
        "host": settings.host,
        "port": settings.port,
        "ops_listen": settings.ops_listen,
        "data_dir": os.fspath(settings.data_dir.absolute()),
        "workers": settings.workers,
        "delivery": settings.delivery,
    }


def take() -> Handover | None:
    """Return what this program was handed, once; None at an ordinary start.

    Raises:
        SegsrvError: It is of a release that shares its memory in another way.

    """
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return None
    described = json.loads(text)
    handed_format = described.pop("format")
    if described["pid"] != os.getpid() and not described["is_rehearsal"]:
        return None
    if handed_format != FORMAT:
        raise SegsrvError("this release can't take over from the one that runs: stop and start it")
    handed = Handover(**described)
    _set_inheritable(handed.files.values(), is_inheritable=False)
    return handed


class Successor:
    """The program that comes after this one: the same command, as it is installed by then.

    It finds `files`, descriptors by name, still open. `is_due` says, for a process that first has
    to end its work, that it should come now.
    """

    def __init__(self, settings: Settings) -> None:
        self.command = [sys.executable, *sys.orig_argv[1:]]
        self.files: dict[str, int] = {}
        self.is_due = False
        self._fixed = fixed(settings)

    def rehearsal_environment(self) -> Mapping[str, str]:
        """Return the environment with which the command only says whether it could take over."""
        return self._environment(Handover(fixed=self._fixed, is_rehearsal=True))

    def rehearse(self) -> int:
        """Start the rehearsal and return its process; 0 is the exit status of one that went well.

        Raises:
            OSError: It can't be started.

        """
        return os.posix_spawn(
            self.command[0],
            self.command,
            self.rehearsal_environment(),
            setsigmask=(),
            setsigdef=STOP_SIGNALS,
        )

    def execute(self, children: Mapping[str, dict[str, Any]] | None = None) -> None:
        """Become the next program.

        Raises:
            OSError: The command can't be run any more.

        """
        handed = Handover(fixed=self._fixed, files=self.files, children=dict(children or {}))
        hold_signals()
        _set_inheritable(self.files.values(), is_inheritable=True)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        try:
            os.execve(self.command[0], self.command, self._environment(handed))  # noqa: S606
        finally:
            _set_inheritable(self.files.values(), is_inheritable=False)
            release_signals()

    def _environment(self, handed: Handover) -> dict[str, str]:
        described = {"format": FORMAT, **asdict(handed)}
        return {**os.environ, VARIABLE: json.dumps(described)}


def hold_signals() -> None:
    """Let signals that would end this process wait until somebody is there for them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)


def release_signals() -> None:
    """Take the signals that have waited, now that there are handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def _set_inheritable(fds: Iterable[int], *, is_inheritable: bool) -> None:
    """Say of several files whether another program of this process finds them open."""
    for fd in fds:
        os.set_inheritable(fd, is_inheritable)
