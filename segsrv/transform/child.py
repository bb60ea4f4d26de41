"""The process that runs transformations: reads requests from a socket, and answers them.

It is started by `process.py` as a program of its own. Whatever a function does to this process, a
loop, an exit, a leak, ends no other. What it prints goes to the error output.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import io
import mmap
import os
import resource
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from segsrv.transform.applying import BadResult, Made, MadeLimits, apply_to_line
from segsrv.transform.context import EventContext, Function
from segsrv.transform.loading import NotLoaded, files_of, load, said
from segsrv.transform.wire import LENGTHS, MEMORY_STATUS, PROGRESS, UNCHANGED, frame

ANSWER_BYTES = 128 << 10
ANSWER_EVENTS = 200
"""After so much or so many an answer's piece is sent: what was not is done again after an end."""
TRACEBACK_CHARS_MAX = 4_000
SPENT_AT = 0.6
"""The part of its memory at which a child asks to be replaced before an event meets the limit."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main(data_fd: int, life_fd: int, progress_fd: int, faults_fd: int) -> None:
    """Serve the other end of *data_fd* until it is closed."""
    _end_with_parent(life_fd)
    # What the functions print is not for the protocol, nor for a sink.
    with contextlib.suppress(OSError):
        os.dup2(2, 1)
    _limit_harm()
    faulthandler.enable(faults_fd, all_threads=True)
    faulthandler.register(signal.SIGUSR1, faults_fd, all_threads=False)
    with (
        open(data_fd, "r+b", buffering=0) as channel,
        mmap.mmap(progress_fd, PROGRESS.size) as progress,
    ):
        reader: Any = io.BufferedReader(channel)
        request = _read(reader)
        if request is None:
            return
        hello = request[0]
        try:
            worker = _Worker(hello, channel, progress)
        except NotLoaded as error:
            channel.write(frame({"error": str(error)}))
            return
        _send(channel, frame({"files": files_of(worker.names)}))
        gc.freeze()
        while (request := _read(reader)) is not None:
            worker.answer(*request)
    # No thread that a module started keeps this process.
    os._exit(0)


class _Worker:
    def __init__(self, hello: Mapping[str, Any], channel: BinaryIO, progress: mmap.mmap) -> None:
        self.names: list[str] = sorted({name for chain in hello["chains"] for name in chain[1]})
        self._memory_bytes_max: int = hello["memory_bytes_max"]
        if self._memory_bytes_max:
            _soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            if hard != resource.RLIM_INFINITY:
                self._memory_bytes_max = min(self._memory_bytes_max, hard)
            resource.setrlimit(resource.RLIMIT_DATA, (self._memory_bytes_max,) * 2)
        # A file that is written twice in a second would be taken for what was kept of it first.
        sys.dont_write_bytecode = True
        directory = str(hello["directory"])
        if directory not in sys.path:
            sys.path.insert(0, directory)
        functions = {name: load(name) for name in self.names}
        self._chains: dict[str | None, list[Function]] = {
            key_id: [functions[name] for name in chain] for key_id, chain in hello["chains"]
        }
        self._sink: str = hello["sink"]
        self._limits = MadeLimits(
            event_bytes_max=hello["event_bytes_max"], total_bytes_max=hello["total_bytes_max"]
        )
        self._channel = channel
        self._progress = progress

    def answer(self, facts: Sequence[Sequence[Any]], body: bytes) -> None:
        progress, channel = self._progress, self._channel
        outcomes: list[Any] = []
        lines: list[bytes] = []
        size = start = 0
        for number, fact in enumerate(facts, 1):
            PROGRESS.pack_into(progress, 0, number)
            key_id, output, received_ms, kind, length, event_id = fact
            line = body[start : start + length]
            start += length
            context = EventContext(
                key_id=key_id,
                format=output,
                type=kind,
                received_ms=received_ms,
                event_id=event_id,
                sink=self._sink,
            )
            made = self._outcome(line, context)
            if isinstance(made, dict):
                outcomes.append(made)
            elif len(made) == 1 and made[0] == (event_id, kind, line):
                outcomes.append(UNCHANGED)
            else:
                lines += [each.line for each in made]
                size += sum(len(each.line) for each in made)
                outcomes.append([(each.event_id, each.type, len(each.line)) for each in made])
            if size >= ANSWER_BYTES or len(outcomes) >= ANSWER_EVENTS:
                _send(channel, frame({"outcomes": outcomes}, b"".join(lines)))
                outcomes, lines, size = [], [], 0
        is_spent = self._is_spent()
        _send(channel, frame({"outcomes": outcomes, "is_spent": is_spent}, b"".join(lines)))
        PROGRESS.pack_into(progress, 0, 0)

    def _outcome(self, line: bytes, context: EventContext) -> list[Made] | dict[str, str]:
        chain = self._chains.get(context.key_id)
        functions = self._chains[None] if chain is None else chain
        try:
            return apply_to_line(functions, line, context, self._limits)
        except MemoryError:
            # What was not given back would keep all that follows from being done.
            os._exit(MEMORY_STATUS)
        except BadResult as error:
            return {"message": str(error), "traceback": ""}
        except BaseException as error:  # noqa: BLE001 - Also what ends a program.
            return {"message": _text(said(error)), "traceback": _text(_traceback(error))}

    def _is_spent(self) -> bool:
        if not self._memory_bytes_max:
            return False
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - Costs half of a Path's.
            data_pages = int(file.read().split()[5])
        return data_pages * PAGE_BYTES > self._memory_bytes_max * SPENT_AT


def _traceback(error: BaseException) -> str:
    # From the function on: how it was called is ours.
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__package__") == __package__:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames, limit=-20))
    return text[-TRACEBACK_CHARS_MAX:]


def _text(text: str) -> str:
    """Return *text* as JSON can hold it."""
    return text.encode("utf-8", "replace").decode()


def _end_with_parent(life_fd: int) -> None:
    """Have the kernel end this process when the other end of *life_fd* is closed.

    A thread that waits for that would wait for a function, too, that doesn't let go of Python.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    # Who stops a whole group or service means the server, which ends this when it is ready.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    fcntl.fcntl(life_fd, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(life_fd, fcntl.F_GETFL)
    fcntl.fcntl(life_fd, fcntl.F_SETFL, flags | os.O_ASYNC)
    os.set_blocking(life_fd, False)
    with contextlib.suppress(BlockingIOError):
        if os.read(life_fd, 1) == b"":
            # It was closed before.
            os._exit(0)


def _limit_harm() -> None:
    """Leave no images of memory on the disk, and where memory runs out, end before the server."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _read(reader: BinaryIO) -> tuple[Any, bytes] | None:
    lengths = reader.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    head_bytes, body_bytes = LENGTHS.unpack(lengths)
    head, body = reader.read(head_bytes), reader.read(body_bytes)
    if len(body) < body_bytes:
        return None
    return orjson.loads(head), body


def _send(channel: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[channel.write(view) :]
