"""Ports for servers of the tests: below those that the kernel hands out, and locked while in use.

A server that is killed and started again needs the same port, so no outgoing connection and no
other test run may take it in between.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 11_000, 21_999
"""All of these plus 10,000, which SeaweedFS takes too, stay below Linux's own range from 32,768."""

_held: dict[int, int] = {}


def take_port(*offsets: int) -> int:
    """Return a free port for the life of this process, one at which port + offset is free too.

    Raises:
        RuntimeError: None is left.

    """
    folder = Path(tempfile.gettempdir()) / f"segsrv-test-ports-{os.geteuid()}"
    folder.mkdir(exist_ok=True)
    candidates = list(range(FIRST, LAST + 1))
    random.shuffle(candidates)
    for port in candidates:
        if port in _held or not _lock(folder / str(port), port):
            continue
        if all(_is_free(port + offset) for offset in (0, *offsets)):
            return port
        release_port(port)
    raise RuntimeError(f"no port from {FIRST} to {LAST} is free")


def release_port(port: int) -> None:
    """Give *port* back; one that was not taken here is ignored."""
    fd = _held.pop(port, None)
    if fd is not None:
        os.close(fd)


def _lock(path: Path, port: int) -> bool:
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    _held[port] = fd
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
