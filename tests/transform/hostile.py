"""Modules with functions that do what they should not, and children that load them."""

import itertools
import os
import time
from pathlib import Path

from segsrv.journal.facts import Facts
from segsrv.transform.process import Hello
from segsrv.transform.transformer import Transformer

NAMES = itertools.count()
MEMORY_BYTES_MAX = 128 << 20
HOSTILE = """
import ctypes, os, re, sys, time
kept = []

def act(event, context):
    what = event.get("do")
    if what == "loop":
        while True:
            pass
    if what == "loop in C":
        re.match("(a*)*b", "a" * 40)
    if what == "sleep":
        time.sleep(3600)
    if what == "exit":
        os._exit(3)
    if what == "sys.exit":
        sys.exit(4)
    if what == "fork":
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    if what == "segfault":
        ctypes.string_at(0)
    if what == "allocate":
        return {"text": bytearray(1 << 40).hex()}
    if what == "leak":
        kept.append(b"x" * (20 << 20))
    if what == "set":
        return {"a": {1}}
    if what == "grow":
        return {**event, "text": "x" * 2_000_000}
    if what == "print":
        print("x" * 100_000)
        os.write(1, b"y" * 100_000)
    if what == "raise":
        raise LookupError("no such thing")
    if what == "close":
        for fd in range(3, 4096):
            try:
                os.close(fd)
            except OSError:
                pass
    if what == "drop":
        return None
    if what == "split":
        return [event, event]
    return event
"""


def module(directory: Path, text: str = HOSTILE) -> str:
    """Write a module that no test has had; return its name."""
    name = f"own_functions_{os.getpid()}_{next(NAMES)}"
    (directory / f"{name}.py").write_text(text)
    return name


def hello(directory: Path, *functions: str, memory_bytes_max: int = MEMORY_BYTES_MAX) -> Hello:
    return Hello(
        chains={None: functions},
        sink="test",
        directory=str(directory),
        event_bytes_max=1_000_000,
        total_bytes_max=8_000_000,
        memory_bytes_max=memory_bytes_max,
    )


async def once(attempt):
    """Make a call one time, for tests in which it works or is to fail."""
    return await attempt()


def transformer(
    directory: Path, *functions: str, timeout_s: float = 30.0, made_bytes_max: int = 1 << 30
) -> Transformer:
    return Transformer(
        "test",
        hello(directory, *functions),
        timeout_s=timeout_s,
        made_bytes_max=made_bytes_max,
        retry=once,
    )


def facts(*lines: bytes) -> list[Facts]:
    """Return what is known of lines, whose ids are `id-0`, `id-1` and so on."""
    return [
        Facts("web", "flat", 1, "track", len(line), f"id-{number}")
        for number, line in enumerate(lines)
    ]


def is_alive(pid: int) -> bool:
    """Say whether a process runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def newer(path: Path, text: str) -> None:
    """Write *text* so that its time of change is another, and not that of just now."""
    path.write_text(text)
    at_s = time.time() - next(NAMES) - 10
    os.utime(path, (at_s, at_s))
