"""A child process that runs functions, seen from the server: started, asked, watched and ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import orjson

from segsrv.transform.loading import NotLoaded
from segsrv.transform.wire import (
    BODY_BYTES_MAX,
    HEAD_BYTES_MAX,
    LENGTHS,
    MEMORY_STATUS,
    PROGRESS,
    frame,
)

LOAD_TIMEOUT_S = 60.0
LOOK_S = 0.5
"""How often a child that is at work is looked at."""
END_TIMEOUT_S = 1.0
KILL_TIMEOUT_S = 5.0
DUMP_TIMEOUT_S = 0.5
FAULT_BYTES_MAX = 4_000
_PROGRAM = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from segsrv.transform.child import main
main(*map(int, sys.argv[2:]))
"""


class ChildEnded(Exception):
    """A child stopped in the middle of its work, or had to be ended.

    `event` is the number of the event that it was at, from 0, or None where it was at none;
    `trace` what it was doing, where that is known.
    """

    def __init__(
        self, message: str, *, event: int | None, is_late: bool = False, trace: str = ""
    ) -> None:
        super().__init__(message)
        self.event = event
        self.is_late = is_late
        self.trace = trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a child is told first: functions to load, by key, and its limits.

    `chains` has the names of functions in their order for a key's id, and under None for the rest.
    Modules are looked for in `directory` first.
    """

    chains: Mapping[str | None, Sequence[str]]
    sink: str
    directory: str
    event_bytes_max: int
    total_bytes_max: int
    memory_bytes_max: int

    @property
    def has_functions(self) -> bool:
        return any(self.chains.values())

    def concerns(self, key_id: str) -> bool:
        """Whether events of this key have functions in their way."""
        chains = self.chains
        return bool(chains[key_id] if key_id in chains else chains[None])

    def encode(self) -> bytes:
        chains = [[key_id, list(names)] for key_id, names in self.chains.items()]
        return frame(
            {
                "chains": chains,
                "sink": self.sink,
                "directory": self.directory,
                "event_bytes_max": self.event_bytes_max,
                "total_bytes_max": self.total_bytes_max,
                "memory_bytes_max": self.memory_bytes_max,
            }
        )


class Child:
    """One child that has loaded its functions; belongs to one event loop.

    A call that is cancelled leaves it in the middle of something: it is good for `kill` only.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        life: socket.socket,
        progress: mmap.mmap,
        faults_fd: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.files: list[str] = []
        self.events = 0
        """How many it has finished."""
        self.is_spent = False
        self._process = process
        self._life = life
        self._progress = progress
        self._faults_fd = faults_fd
        self._trace = ""
        self._reader = reader
        self._writer = writer

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, hello: Hello) -> Child:
        """Start a child and have it load its functions.

        Raises:
            NotLoaded: It can't; the text says which and why.
            OSError: The system refused a process.

        """
        # It takes a moment, and what has been started must have an owner.
        beginning = asyncio.create_task(cls._begin(), name="segsrv-transform-start")
        try:
            child = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            await asyncio.wait([beginning])
            if not beginning.cancelled() and beginning.exception() is None:
                await beginning.result().kill()
            raise
        await child.load(hello)
        return child

    @classmethod
    async def _begin(cls) -> Child:
        data, theirs = socket.socketpair()
        try:
            process, life, progress, faults_fd = await asyncio.to_thread(_start, theirs)
        except BaseException:
            data.close()
            raise
        data.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=data)
        return cls(process, life, progress, faults_fd, reader, writer)

    async def load(self, hello: Hello) -> None:
        """Have a new child load its functions; it is ended where it can't.

        Raises:
            NotLoaded: It can't; the text says which and why.

        """
        names = ", ".join(sorted({name for chain in hello.chains.values() for name in chain}))
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                head, _body = await self._ask(hello.encode())
            if "error" in head:
                raise NotLoaded(str(head["error"]))
            self.files = [str(path) for path in head["files"]]
        except TimeoutError:
            await self.kill()
            raise NotLoaded(f"{names}: not imported within {LOAD_TIMEOUT_S:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            status = await self._status()
            await self.kill()
            raise NotLoaded(f"{names}: the process {_ended(status)} while importing") from error
        except BaseException:
            await self.kill()
            raise

    async def work(
        self,
        request: bytes,
        events: int,
        *,
        timeout_s: float,
        on_answer: Callable[[list[Any], bytes], None],
    ) -> None:
        """Have a request of so many *events* done; *on_answer* gets outcomes and lines in pieces.

        Raises:
            ChildEnded: It ended, or was at one event for longer than *timeout_s*; it is killed.

        """
        answered = 0

        async def converse() -> None:
            nonlocal answered
            self._writer.write(request)
            await self._writer.drain()
            is_last = False
            while not is_last:
                head, body = await self._receive()
                outcomes, is_last = head["outcomes"], "is_spent" in head
                if not isinstance(outcomes, list) or len(outcomes) > events - answered:
                    raise ValueError("not an answer")
                on_answer(outcomes, body)
                answered += len(outcomes)
                self.events += len(outcomes)
            self.is_spent = bool(head["is_spent"])
            if answered < events:
                raise ValueError("not a whole answer")

        task = asyncio.create_task(converse(), name="segsrv-transform")
        try:
            await self._watch(task, timeout_s)
        except BaseException:
            await _cancelled(task)
            raise
        fault = task.exception()
        if fault is None:
            return
        if not isinstance(fault, OSError | EOFError | ValueError | LookupError | TypeError):
            await self.kill()
            raise fault
        event = self._event()
        status = await self._status()
        await self.kill()
        what = _ended(status) if isinstance(fault, OSError | EOFError) else "broke the protocol"
        raise ChildEnded(f"the process {what}", event=event, trace=self._trace) from fault

    async def kill(self) -> None:
        """End the process, and what it has started, whatever it does."""
        if self._faults_fd < 0:
            return
        fd, self._faults_fd = self._faults_fd, -1
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._writer.close()
        self._life.close()
        self._progress.close()
        try:
            # One that a broken disk holds ends when that lets it; the server goes on.
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.shield(asyncio.to_thread(self._process.wait, KILL_TIMEOUT_S))
            self._trace = _trace(fd)
        finally:
            os.close(fd)

    async def _watch(self, task: asyncio.Task[None], timeout_s: float) -> None:
        """Wait for *task* while the child gets on."""
        at, since_s = -1, time.monotonic()
        while True:
            await asyncio.wait([task], timeout=min(LOOK_S, timeout_s / 4))
            if task.done():
                return
            now_s = time.monotonic()
            (moved_to,) = PROGRESS.unpack_from(self._progress)
            if moved_to != at:
                at, since_s = moved_to, now_s
            elif now_s - since_s >= timeout_s:
                await self._end_late(timeout_s)
            elif self._process.poll() is not None:
                # Something that it started may hold its socket open.
                await asyncio.wait([task], timeout=END_TIMEOUT_S)
                if not task.done():
                    event = self._event()
                    await self.kill()
                    what = _ended(self._process.returncode)
                    raise ChildEnded(f"the process {what}", event=event, trace=self._trace)

    async def _end_late(self, timeout_s: float) -> NoReturn:
        event = self._event()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)
        deadline_s = time.monotonic() + DUMP_TIMEOUT_S
        # It says where it is; the memory has no event to wait for.
        while not _trace(self._faults_fd) and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self.kill()
        text = f"took more than transform_timeout_s={timeout_s:g}"
        raise ChildEnded(text, event=event, is_late=True, trace=self._trace)

    def _event(self) -> int | None:
        (number,) = PROGRESS.unpack_from(self._progress)
        return int(number) - 1 if number else None

    async def _ask(self, request: bytes) -> tuple[Any, bytes]:
        self._writer.write(request)
        await self._writer.drain()
        return await self._receive()

    async def _receive(self) -> tuple[Any, bytes]:
        lengths = await self._reader.readexactly(LENGTHS.size)
        head_bytes, body_bytes = LENGTHS.unpack(lengths)
        if head_bytes > HEAD_BYTES_MAX or body_bytes > BODY_BYTES_MAX:
            raise ValueError("not an answer")
        head = orjson.loads(await self._reader.readexactly(head_bytes))
        if not isinstance(head, dict):
            raise ValueError("not an answer")  # noqa: TRY004 - one error for all that it may be
        return head, await self._reader.readexactly(body_bytes)

    async def _status(self) -> int | None:
        """Return how the process ended; None if it did not within a moment."""
        deadline_s = time.monotonic() + END_TIMEOUT_S
        # A thread that waits for it could not be given up.
        while (  # noqa: ASYNC110
            status := self._process.poll()
        ) is None and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        return status


def _trace(fd: int) -> str:
    """Return what a process has said of its own end."""
    return os.pread(fd, FAULT_BYTES_MAX, 0).decode("utf-8", "replace").strip()


def _start(theirs: socket.socket) -> tuple[subprocess.Popen[bytes], socket.socket, mmap.mmap, int]:
    """Start the program; blocking."""
    life, their_life = socket.socketpair()
    progress_fd = os.memfd_create("segsrv-progress")
    faults_fd = os.memfd_create("segsrv-faults")
    try:
        os.ftruncate(progress_fd, PROGRESS.size)
        progress = mmap.mmap(progress_fd, PROGRESS.size)
        fds = (theirs.fileno(), their_life.fileno(), progress_fd, faults_fd)
        process = subprocess.Popen(  # noqa: S603 - Our own program.
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), *map(str, fds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=fds,
            start_new_session=True,
        )
    except BaseException:
        life.close()
        os.close(faults_fd)
        raise
    finally:
        theirs.close()
        their_life.close()
        os.close(progress_fd)
    return process, life, progress, faults_fd


def _ended(status: int | None) -> str:
    if status is None:
        return "closed its socket"
    if status == MEMORY_STATUS:
        return "needed more memory than transform_memory_bytes_max"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    return f"exited with status {status}"


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        # What came of it is no news: the child was ended.
        task.exception()


def working_directory() -> str:
    """Return where modules are looked for first."""
    return str(Path.cwd())
