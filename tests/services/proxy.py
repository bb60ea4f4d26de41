"""A TCP proxy that breaks on demand: refuses, cuts in mid-request, swallows answers, or hangs.

It runs a loop of its own in a thread; its methods may be called from any other thread and have
taken effect when they return. It serves on the same port for its whole life.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.services.free_ports import release_port, take_port

_Reader, _Writer = asyncio.StreamReader, asyncio.StreamWriter
CHUNK_BYTES = 64 << 10
CALL_TIMEOUT_S = 10.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing resets the connection, as a cut does."""


@dataclass(slots=True)
class _Trap:
    """When to break: once clients have sent so many bytes, or when these are answered; 0 is never.

    A gentle one hangs, others cut.
    """

    request_bytes: int = 0
    answer_bytes: int = 0
    mark: bytes = b""
    is_gentle: bool = False
    _tail: bytes = b""

    def look_for_mark(self, data: bytes) -> None:
        if self.mark:
            self._tail += data
            if self.mark in self._tail:
                self.mark = b""
            self._tail = self._tail[-len(self.mark) :]

    def is_answer(self, client_bytes: int) -> bool:
        return bool(self.answer_bytes) and client_bytes >= self.answer_bytes and not self.mark


class Proxy:
    """Passes connections on to 127.0.0.1:*port*; `port` is its own.

    `client_bytes` and `server_bytes` count what it passed on since the last call of a method that
    breaks or heals; `is_cut` and `is_hung` say how it is now, and `accepted` how many connections
    it took in its life.
    """

    def __init__(self, port: int) -> None:
        self.upstream_port = port
        self.port = take_port()
        self.is_cut = False
        self.is_hung = False
        self.client_bytes = 0
        self.server_bytes = 0
        self.accepted = 0
        self._trap = _Trap()
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_flowing: asyncio.Event
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, args=[started], name="proxy", daemon=True
        )
        self._thread.start()
        if not started.wait(CALL_TIMEOUT_S) or self._server is None:
            raise RuntimeError(f"the proxy can't listen on port {self.port}")

    def cut(self) -> None:
        """Reset all connections and refuse new ones, until `heal`."""
        self._call(self._cut())

    def heal(self) -> None:
        """Pass everything on again."""
        self._call(self._heal())

    def cut_after(self, client_bytes: int) -> None:
        """Cut as soon as clients have sent so many bytes from now on, which still get through."""
        self._call(self._set(_Trap(request_bytes=client_bytes)))

    def hang_after(self, client_bytes: int) -> None:
        """Hang, as `hang` does, as soon as clients have sent so many bytes from now on."""
        self._call(self._set(_Trap(request_bytes=client_bytes, is_gentle=True)))

    def drop_answers(self, *, client_bytes: int = 1, mark: bytes = b"") -> None:
        """Let requests through, and cut when the server begins to answer them.

        It counts as an answer what comes after clients have sent *client_bytes* from now on and,
        if given, the bytes *mark*. The first of it and all after it is lost, so a client can't know
        what became of its request.
        """
        self._call(self._set(_Trap(answer_bytes=client_bytes, mark=mark)))

    def hold_answers(self, *, client_bytes: int = 1, mark: bytes = b"") -> None:
        """Hang when the server begins to answer, where `drop_answers` would cut."""
        self._call(self._set(_Trap(answer_bytes=client_bytes, mark=mark, is_gentle=True)))

    def hang(self) -> None:
        """Pass nothing on, neither way, and take connections without a word, until `heal`."""
        self._call(self._hang())

    def close(self) -> None:
        """End the proxy and give its port back."""
        if self._loop.is_closed():
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()
        release_port(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._is_flowing = asyncio.Event()
            self._loop.run_until_complete(self._heal())
        finally:
            started.set()
        self._loop.run_forever()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)

    async def _set(self, trap: _Trap) -> None:
        await self._heal()
        self._trap = trap

    async def _heal(self) -> None:
        self._trap = _Trap()
        self.client_bytes = self.server_bytes = 0
        self.is_cut = self.is_hung = False
        self._is_flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _hang(self) -> None:
        await self._heal()
        self._stop_flowing()

    def _stop_flowing(self) -> None:
        self.is_hung = True
        self._is_flowing.clear()

    async def _cut(self) -> None:
        self.is_cut = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in list(self._links):
            link.reset()

    async def _end(self) -> None:
        await self._cut()
        self._is_flowing.set()
        # All of them end by themselves, their connections being reset.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: _Reader, writer: _Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        link = _Link([writer])
        self._links.add(link)
        try:
            with contextlib.suppress(OSError):
                await self._is_flowing.wait()
                upstream = await asyncio.open_connection("127.0.0.1", self.upstream_port)
                link.add(upstream[1])
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump_client(reader, upstream[1]))
                    group.create_task(self._pump_server(upstream[0], writer))
        except* OSError:
            pass
        finally:
            link.reset()
            self._links.discard(link)
            self._tasks.discard(task)

    async def _pump_client(self, reader: _Reader, writer: _Writer) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._is_flowing.wait()
            trap = self._trap
            last = trap.request_bytes - self.client_bytes if trap.request_bytes else len(data) + 1
            passed, rest = (data, b"") if len(data) < last else (data[:last], data[last:])
            trap.look_for_mark(passed)
            self.client_bytes += len(passed)
            writer.write(passed)
            # What was sent before a cut arrives; the rest of the request never does.
            await writer.drain()
            if len(data) >= last and not await self._spring(trap):
                return
            if rest:
                writer.write(rest)
                await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _pump_server(self, reader: _Reader, writer: _Writer) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._is_flowing.wait()
            trap = self._trap
            if trap.is_answer(self.client_bytes) and not await self._spring(trap):
                return
            self.server_bytes += len(data)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _spring(self, trap: _Trap) -> bool:
        """Cut and return False, or hang and return True once healed."""
        if not trap.is_gentle:
            await self._cut()
            return False
        self._stop_flowing()
        await self._is_flowing.wait()
        return True


class _Link:
    """The two connections that belong together."""

    def __init__(self, writers: list[_Writer]) -> None:
        self._writers = writers
        self._is_reset = False

    def add(self, writer: _Writer) -> None:
        self._writers.append(writer)
        if self._is_reset:
            self.reset()

    def reset(self) -> None:
        self._is_reset = True
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
