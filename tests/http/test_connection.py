"""Requests that come with an upgrade or with the end of the client's side: answered and stored."""

import asyncio
import contextlib
import gzip
import json
import logging
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import uvloop
from aiohttp import web

from segsrv import Settings, create_app
from segsrv.app import INGEST
from segsrv.http.connection import Connection
from segsrv.http.front.front import Front
from segsrv.http.tally import TALLY
from tests.http.fuzzing import request
from tests.needs import skip_or_fail
from tests.site import FLAT, FRONTS, KEY, id_of, new_id

DEADLINE_S = 8.0
"""Shorter than any time limit of the server's, which would end a connection that was forgotten."""
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAA")
WEBSOCKET = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Return a function that runs a coroutine to its end, on each kind of loop."""

    def run(coroutine):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(coroutine)

    return run


class Served:
    """The application behind real sockets, in the loop that runs; `protocols` are its side."""

    def __init__(self, tmp_path, front) -> None:
        self.data_dir = tmp_path / "data"
        self._front = front
        self.port = 0
        self.protocols = []

    @contextlib.asynccontextmanager
    async def __call__(self, context=None):
        settings = Settings(data_dir=self.data_dir, write_key=(KEY,))
        app = create_app(settings)
        runner = web.AppRunner(app)
        await runner.setup()
        loop = asyncio.get_running_loop()

        options = {"tally": app[TALLY], "access_log": None}
        front = Front(runner.server, app[INGEST], settings, loop, options)

        def accept():
            is_raw = self._front == "raw"
            made = front() if is_raw else Connection(runner.server, loop=loop, **options)
            self.protocols.append(made)
            return made

        server = await loop.create_server(accept, "127.0.0.1", 0, ssl=context, backlog=1_024)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await runner.cleanup()

    async def ask(self, *packets, ends=True) -> bytes:
        """Send *packets*, end this side, and return all that comes until the server ends its."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(DEADLINE_S):
                for packet in packets:
                    writer.write(packet)
                    await writer.drain()
                if ends:
                    writer.write_eof()
                return await reader.read()
        finally:
            writer.close()

    def stored_ids(self) -> list[str]:
        """Return what is stored once the server has stopped."""
        lines = [
            line
            for path in sorted(self.data_dir.glob("events/**/*.ndjson"))
            for line in path.read_bytes().splitlines()
        ]
        return [id_of(json.loads(line)) for line in lines]


@pytest.fixture(params=FRONTS)
def served(request, tmp_path):
    return Served(tmp_path, request.param)


def events(count, *headers, **fields):
    """Return the ids of *count* events and a request with each."""
    ids = [new_id() for _ in range(count)]
    bodies = [json.dumps({"type": "track", "messageId": event_id, **fields}) for event_id in ids]
    lines = [f"X-Write-Key: {KEY}", *headers]
    return ids, [request(FLAT, body.encode(), lines) for body in bodies]


def statuses(received) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


class TestHalfClosed:
    @pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 200])
    def test_whole_requests_are_answered(self, run, served, count):
        """However many came before the end, all are answered and stored, and the server closes."""
        ids, requests = events(count)

        async def main():
            async with served():
                return await served.ask(b"".join(requests))

        received = run(main())
        assert statuses(received) == [200] * count
        assert served.stored_ids() == ids

    def test_many_clients_at_once_are_all_answered(self, run, served):
        """Whenever the end arrives, before, while or after a request is taken, nothing is lost."""
        ids, requests = events(300)

        async def main():
            async with served():
                return await asyncio.gather(*(served.ask(one) for one in requests))

        assert [statuses(received) for received in run(main())] == [[200]] * 300
        assert sorted(served.stored_ids()) == sorted(ids)

    @pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
    def test_a_large_body_is_answered(self, run, served, encode):
        """A body of many packets that is read with pauses is taken whole."""
        event_id = new_id()
        event = {"type": "track", "messageId": event_id, "text": "x" * 900_000}
        body = json.dumps({"batch": [event, event | {"messageId": new_id()}]}).encode()
        lines = [f"X-Write-Key: {KEY}"]
        if encode is gzip.compress:
            lines.append("Content-Encoding: gzip")

        async def main():
            async with served():
                return await served.ask(request(FLAT, encode(body), lines))

        assert statuses(run(main())) == [200]
        assert len(served.stored_ids()) == 2

    @pytest.mark.parametrize("whole", [0, 1, 3, 40])
    @pytest.mark.parametrize("cut", [-1, -30, 10], ids=["end", "body", "head"])
    def test_half_a_request_is_not(self, run, served, caplog, whole, cut):
        """Half a request is not answered, those before it are, and the log says no error."""
        ids, requests = events(whole + 1)
        requests[-1] = requests[-1][:cut]

        async def main():
            async with served():
                return await served.ask(b"".join(requests))

        with caplog.at_level(logging.WARNING):
            assert statuses(run(main())) == [200] * whole
        assert served.stored_ids() == ids[:-1]
        assert not caplog.records

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\r\n",
            b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n",
            b"GET /nothing HTTP/1.1\r\nHost: t\r\n\r\n",
            b"POST /nothing HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nhalf",
            b"POST /v1/t HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
            b"no HTTP at all\r\n\r\n",
        ],
    )
    def test_every_connection_is_closed_at_once(self, run, served, caplog, data):
        """Whatever came before the end, the server closes in turn, long before a time limit.

        The log has at most the line that says what was refused.
        """

        async def main():
            async with served():
                return await served.ask(data)

        with caplog.at_level(logging.WARNING):
            run(main())
        assert {record.name for record in caplog.records} <= {"segsrv.http.tally"}

    def test_the_end_may_come_later(self, run, served):
        """A connection whose client ends it while it is idle is closed."""
        ids, requests = events(1)

        async def main():
            async with served(), asyncio.timeout(DEADLINE_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                writer.write(requests[0])
                answer = await reader.readuntil(b'{"status":"ok"}')
                writer.write_eof()
                rest = await reader.read()
                writer.close()
                return answer + rest

        assert statuses(run(main())) == [200]
        assert served.stored_ids() == ids

    def test_over_tls_the_event_is_stored(self, run, served, tmp_path, caplog):
        """Over TLS both sides end at once, so there is no answer; the event is stored."""
        ids, requests = events(1)
        cert, key = self_signed(tmp_path)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)

        def ask() -> None:
            trusting = ssl.create_default_context(cafile=cert)
            plain = socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE_S)
            with trusting.wrap_socket(plain, server_hostname="127.0.0.1") as client:
                client.sendall(requests[0])
                with socket.socket(fileno=client.detach()) as ended:
                    ended.settimeout(DEADLINE_S)
                    ended.shutdown(socket.SHUT_WR)
                    # What comes is enciphered; what counts is that it ends.
                    while ended.recv(65_536):
                        pass

        async def main():
            async with served(context):
                await asyncio.to_thread(ask)

        with caplog.at_level(logging.WARNING):
            run(main())
        assert served.stored_ids() == ids
        assert not caplog.records


def self_signed(folder):
    if shutil.which("openssl") is None:
        skip_or_fail("this needs the openssl command")
    cert, key = folder / "one.crt", folder / "one.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=one", "-addext"),
            *("subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return cert, key


class TestUpgrade:
    @pytest.mark.parametrize(
        "headers",
        [
            H2C,
            WEBSOCKET,
            ("connection: upgrade", "upgrade: TLS/1.0, h2c"),
            ("CONNECTION: keep-alive, UPGRADE", "UPGRADE: h2c"),
            ("Upgrade: h2c", "Upgrade: websocket", "Connection: Upgrade"),
            ("Upgrade:", "Connection: Upgrade"),
            ("Connection: Upgrade",),
            ("Upgrade: h2c",),
        ],
        ids=lambda headers: "+".join(headers)[:40],
    )
    def test_what_follows_is_not_lost(self, run, served, headers):
        """Without upgrade support the header is ignored, and later requests are answered too."""
        ids, requests = events(6, *headers)
        plain_ids, plain = events(6)
        mixed = [one for pair in zip(requests, plain, strict=True) for one in pair]

        async def main():
            async with served():
                return await served.ask(b"".join(mixed))

        assert statuses(run(main())) == [200] * 12
        assert sorted(served.stored_ids()) == sorted(ids + plain_ids)

    @pytest.mark.parametrize("count", [31, 32, 33, 100])
    def test_long_queues_are_answered(self, run, served, count):
        """Where requests wait for room in the parser, none is lost either."""
        ids, requests = events(count, *H2C)

        async def main():
            async with served():
                return await served.ask(b"".join(requests))

        assert statuses(run(main())) == [200] * count
        assert served.stored_ids() == ids

    @pytest.mark.parametrize("body", ["none", "chunked"])
    def test_other_bodies_are_framed(self, run, served, body):
        """Behind a request without a body, or with one in chunks, the next is found as well."""
        ids, requests = events(1)
        lines = "\r\n".join(["Host: t", f"X-Write-Key: {KEY}", *H2C])
        if body == "none":
            first = f"GET /health HTTP/1.1\r\n{lines}\r\n\r\n"
        else:
            chunks = '9\r\n{"type":"\r\n7\r\ntrack"}\r\n0\r\n\r\n'
            first = f"POST {FLAT} HTTP/1.1\r\n{lines}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"

        async def main():
            async with served():
                return await served.ask(first.encode() + requests[0])

        assert statuses(run(main())) == [200, 200]
        assert ids[0] in served.stored_ids()

    def test_a_body_that_looks_like_one_keeps_its_length(self, run, served):
        """What stands in a body never becomes a request, which would answer a proxy's next client.

        Nor does the header's name there change what is stored of any JSON.
        """
        hidden = request("/health", b"", method="GET")
        body = b"\r\nUpgrade: h2c" * 100 + hidden * 3
        ids, requests = events(1, text="\r\nUpgrade: h2c")

        async def main():
            async with served():
                return await served.ask(request("/v1/m", body) + requests[0] + hidden)

        assert statuses(run(main())) == [200, 200, 200]
        assert served.stored_ids() == ids
        (path,) = served.data_dir.glob("events/**/*.ndjson")
        assert json.loads(path.read_bytes())["text"] == "\r\nUpgrade: h2c"

    def test_the_header_may_come_in_parts(self, run, served):
        """Wherever a packet ends, and if each has but one byte, the request behind is answered."""
        ids, requests = events(1, *H2C)
        next_ids, next_requests = events(1)
        first, next_request = requests[0], next_requests[0]
        head_bytes = first.index(b"\r\n\r\n") + 4
        single = [bytes([byte]) for byte in first[:head_bytes]]
        splits = [[first[:at], first[at:] + next_request] for at in range(1, head_bytes)]
        splits.append([*single, first[head_bytes:] + next_request])

        async def main():
            async with served(), asyncio.timeout(DEADLINE_S * 4):
                for parts in splits:
                    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                    connected = len(served.protocols)
                    protocol = served.protocols[connected - 1]
                    # As the transport would: packets of a socket can't be told where to end.
                    for part in parts:
                        protocol.data_received(part)
                    for _ in range(2):
                        answer = await reader.readuntil(b'{"status":"ok"}')
                        assert answer.startswith(b"HTTP/1.1 200 ")
                    writer.close()

        run(main())
        assert served.stored_ids() == (ids + next_ids) * len(splits)

    def test_one_connection_takes_requests_in_turn(self, site):
        """A client that waits for each answer keeps its connection, mounted as well."""
        ids, requests = events(3, *H2C)
        with socket.create_connection(site.address, timeout=DEADLINE_S) as connection:
            for one in requests:
                connection.sendall(one.replace(b"POST /", f"POST {site.prefix}/".encode(), 1))
                received = b""
                while not received.endswith(b'{"status":"ok"}'):
                    part = connection.recv(65_536)
                    assert part
                    received += part
                assert received.startswith(b"HTTP/1.1 200 ")
        assert len(site.stored(*ids)) == 3

    def test_java_s_client_is_answered(self, site):
        """Java's HttpClient, which asks for h2c with every request, has its events stored."""
        if shutil.which("java") is None:
            skip_or_fail("this needs the java command")
        ids = [new_id() for _ in range(20)]
        url = f"http://{site.address[0]}:{site.address[1]}{site.prefix}/v1/track"
        result = subprocess.run(
            ["java", Path(__file__).with_name("HttpClientPosts.java"), url, KEY, *ids],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == ["200"] * 20
        assert len(site.stored(*ids)) == 20
