"""How many connections the system's limit of open files leaves room for.

Whatever clients do, the journal, the sinks and the databases must be able to open their files. So
connections get what is left over: those that are served, those that are told that they are too
many, and those that the kernel has accepted before anybody could say so.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path
from typing import NamedTuple

from segsrv.errors import SegsrvError
from segsrv.process.listening import BACKLOG
from segsrv.settings import Settings

OPEN_FILES = Path("/proc/self/fd")
OPEN_FILES_UNKNOWN = 32
"""How many are taken for open where the system does not say."""
KEPT_FILES = 10
"""For what is opened for a moment: the next segment, one to read, a folder to sync, a report, a
replaced database or certificate."""
KEPT_FILES_PER_SINK = 6
"""For a cursor, the sink's own files or connections, and its dead letters."""
FILES_OF_A_START = 12
"""What a worker has open when it takes requests, and not before; no fewer in any configuration."""
CONNECTIONS_MIN = 4
REFUSALS_MAX = 128
OPS_CONNECTIONS_MAX = 64
OPS_SHARE = 32
"""Of the files that may be open, the operators' connections get one in so many."""


class Room(NamedTuple):
    """How many connections one listener may have: served, being refused, and not yet looked at."""

    connections: int
    refusals: int
    backlog: int


def raise_file_limit() -> None:
    """Allow as many connections as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_files(settings: Settings) -> None:
    """Find a limit that no start can succeed with, before anything is made.

    Raises:
        SegsrvError: Too few files may be open.

    """
    _room(settings, FILES_OF_A_START)


def ops_room() -> Room:
    """Return the room for operators' connections."""
    connections = max(min(OPS_CONNECTIONS_MAX, _files_max() // OPS_SHARE), 2)
    return Room(connections, connections, connections)


def public_room(settings: Settings) -> Room:
    """Return the room for clients' connections, once everything else of the server is open.

    Raises:
        SegsrvError: The limit of open files leaves next to none.

    """
    return _room(settings, 0)


def _room(settings: Settings, opened_later: int) -> Room:
    files = _files_max()
    kept = _open_files() + opened_later
    kept += KEPT_FILES + KEPT_FILES_PER_SINK * len(settings.sink)
    if settings.ops_listen:
        kept += sum(ops_room())
    spare = files - kept
    backlog = min(BACKLOG, spare // 4)
    refusals = min(REFUSALS_MAX, spare // 4)
    connections = spare - backlog - refusals
    if connections < CONNECTIONS_MIN:
        raise SegsrvError(
            f"{files} files may be open, at least {kept + 2 * CONNECTIONS_MIN} are needed "
            "(ulimit -n, LimitNOFILE=)"
        )
    return Room(connections, refusals, backlog)


def _open_files() -> int:
    try:
        return len(list(OPEN_FILES.iterdir()))
    except OSError:
        return OPEN_FILES_UNKNOWN


def _files_max() -> int:
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else files
