"""A way to the server that notes how a client talks to it, and changes nothing."""

import asyncio
import contextlib
import gzip
import json
import socket
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

MESSAGES_MAX = 10_000
HEAD_BYTES_MAX = 64 << 10
BODY_BYTES_MAX = 16 << 20
PIECE_BYTES = 64 << 10
JOIN_TIMEOUT_S = 10.0
HEAD_END = b"\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Message:
    """A request or an answer: its first line, its headers in lower case, its body so far."""

    line: str
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]

    @property
    def status(self) -> int:
        return int(self.line.split(" ", 2)[1])

    def json(self) -> Any:
        is_gzip = self.headers.get("content-encoding") == "gzip"
        return json.loads(gzip.decompress(self.body) if is_gzip else self.body)

    @property
    def auth(self) -> str:
        """Say where this request carries its write key."""
        forms = []
        if authorization := self.headers.get("authorization"):
            forms.append(authorization.split(" ")[0])
        if "x-write-key" in self.headers:
            forms.append("X-Write-Key")
        if self.json().get("writeKey"):
            forms.append("body writeKey")
        return " + ".join(forms)


class Recorder:
    """Pass connections on to a loopback port for the length of a `with` block.

    Bytes go through as they come, both ways; beside that, requests and answers are kept in the
    order in which their heads came.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._requests: list[Message] = []
        self._answers: list[Message] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Message]:
        """Every request so far."""
        return list(self._requests)

    @property
    def heads(self) -> list[tuple[str, str, dict[str, str]]]:
        """Method, path and headers (their names in lower case) of every request so far."""
        return [(request.method, request.path, request.headers) for request in self.requests]

    @property
    def statuses(self) -> list[int]:
        """The status of every answer so far, without `100 Continue`."""
        return [answer.status for answer in list(self._answers) if answer.status >= 200]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(JOIN_TIMEOUT_S), "the recorder did not start"
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(RuntimeError):
            # The loop is closed already if the recorder failed.
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(JOIN_TIMEOUT_S)
        assert not self._thread.is_alive(), "the recorder did not stop"
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:  # noqa: BLE001
            # Handed to the test's thread, which raises it.
            self._failure = failure
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        # An asyncio server that is closed while a connection comes in forgets to close that one.
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            self.port = listening.getsockname()[1]
            self._loop.add_reader(listening, self._accept, listening)
            self._ready.set()
            await self._stop.wait()
            self._loop.remove_reader(listening)
        # Each connection's task takes its first step, from which on it closes what it opened.
        await asyncio.sleep(0)
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections)

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            connection = asyncio.create_task(self._pass_on(listening.accept()[0]))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)

    async def _pass_on(self, accepted: socket.socket) -> None:
        try:
            client = await asyncio.open_connection(sock=accepted)
            with contextlib.closing(client[1]):
                server = await asyncio.open_connection("127.0.0.1", self._target_port)
                with contextlib.closing(server[1]):
                    await self._both_ways(client, server)
        except (ConnectionError, asyncio.CancelledError):
            # Either end is gone, or the test is over: both only end this connection.
            pass
        except Exception as failure:  # noqa: BLE001
            self._failure = failure

    async def _both_ways(self, client: Streams, server: Streams) -> None:
        sending = asyncio.create_task(_pump(client[0], server[1], _Messages(self._requests)))
        try:
            await _pump(server[0], client[1], _Messages(self._answers))
        finally:
            # After the server closed, what the client still sends can't go anywhere.
            sending.cancel()
            [result] = await asyncio.gather(sending, return_exceptions=True)
            if isinstance(result, AssertionError):
                raise result


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messages: "_Messages"
) -> None:
    try:
        while piece := await reader.read(PIECE_BYTES):
            messages.feed(piece)
            writer.write(piece)
            await writer.drain()
    finally:
        # Each end learns that the other has closed, or is gone.
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()


class _Messages:
    """Takes the messages in one direction of a connection apart, by their framing."""

    def __init__(self, found: list[Message]) -> None:
        self._found = found
        self._buffer = bytearray()
        self._message: Message | None = None
        self._left = 0
        self._after = 0
        self._is_chunked = False

    def feed(self, piece: bytes) -> None:
        self._buffer += piece
        while self._buffer and self._take_some():
            pass

    def _take_some(self) -> bool:
        """Take the next part off the buffer; say whether it was complete."""
        if self._left:
            part = self._take(min(self._left, len(self._buffer)))
            self._left -= len(part)
            self._message.body += part
            assert len(self._message.body) < BODY_BYTES_MAX, "more than a test can mean to send"
            return True
        if self._after:
            self._after -= len(self._take(min(self._after, len(self._buffer))))
            return True
        end = self._buffer.find(b"\r\n" if self._is_chunked else HEAD_END)
        if end < 0:
            assert len(self._buffer) < HEAD_BYTES_MAX, "this is no HTTP/1.1"
            return False
        return self._take_chunk(end) if self._is_chunked else self._take_head(end)

    def _take(self, size: int) -> bytes:
        part = bytes(self._buffer[:size])
        del self._buffer[:size]
        return part

    def _take_chunk(self, end: int) -> bool:
        size = int(bytes(self._buffer[:end]).partition(b";")[0], 16)
        if size:
            self._take(end + 2)
            self._left, self._after = size, 2
            return True
        # Trailers, which no SDK sends, would stand between the last chunk and the empty line.
        end = self._buffer.find(HEAD_END)
        if end < 0:
            return False
        self._take(end + len(HEAD_END))
        self._is_chunked = False
        return True

    def _take_head(self, end: int) -> bool:
        line, *fields = self._take(end).decode("latin-1").split("\r\n")
        self._take(len(HEAD_END))
        headers = {}
        for text in fields:
            name, _colon, value = text.partition(":")
            headers[name.strip().lower()] = value.strip()
        assert len(self._found) < MESSAGES_MAX, "more requests than a test can mean to send"
        self._message = Message(line, headers)
        self._found.append(self._message)
        self._is_chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._left = 0 if self._is_chunked else int(headers.get("content-length", "0"))
        return True
