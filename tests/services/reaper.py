"""Kills the services of a test run that has ended without doing so, as when it was killed itself.

    python reaper.py

Its standard input is a pipe that only the test run holds open: `+PID` for a service that was
started, `-PID` for one that has ended. At the end of it, what is left is killed with its children.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path


def family_of(pid: int) -> list[int]:
    """Return *pid* and all its living descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (known := stat(int(entry.name))) is not None:
            children.setdefault(known[1], []).append(int(entry.name))
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return family


def stat(pid: int) -> tuple[str, int] | None:
    """Return the state of a process and its parent; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze(pid: int) -> list[int]:
    """Stop a process and its descendants, parents first, and return all of them."""
    stopped: list[int] = []
    # A child that was started meanwhile is found in the next round.
    while new := [member for member in family_of(pid) if member not in stopped]:
        signal_all(new, signal.SIGSTOP)
        stopped += new
    return stopped


def main() -> None:
    running: set[int] = set()
    for line in sys.stdin:
        if line[0] == "+":
            running.add(int(line[1:]))
        else:
            running.discard(int(line[1:]))
    for pid in running:
        signal_all(freeze(pid), signal.SIGKILL)


if __name__ == "__main__":
    main()
