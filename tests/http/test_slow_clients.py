"""Clients that are slow, idle, too many or gone: cut off in time, and no cost to the others."""

import contextlib
import itertools
import json
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.http import idle_clients
from tests.http.fuzzing import Connection, ConnectionEnded, memory_of, request
from tests.needs import skip_or_fail
from tests.site import BOTH_FRONTS, FLAT, KEY, id_of, new_id
from tests.waiting import wait_until

DEADLINE_S = 30.0
PACE_S = 0.05
"""Between two bytes of a client that trickles; far more often than any time limit here."""
MIB = 1 << 20
IDLE_CONNECTIONS = 10_000
BYTES_PER_IDLE_CONNECTION_MAX = 24 << 10
SENT_BYTES_MAX = 500 * MIB
KEY_HEADER = f"X-Write-Key: {KEY}"


def event_request(event_id, **fields) -> bytes:
    body = {"type": "track", "event": "Bought", "messageId": event_id, **fields}
    return request(FLAT, json.dumps(body).encode(), [KEY_HEADER])


def trickle(address, data) -> bytes:
    """Send *data* byte by byte until the server answers or closes; return what came back."""
    deadline = time.monotonic() + DEADLINE_S
    with socket.create_connection(address, timeout=DEADLINE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in itertools.chain(data, itertools.repeat(ord("x"))):
            with contextlib.suppress(ConnectionError):
                connection.send(bytes([byte]))
            # Waiting for an answer is what paces the bytes.
            if select.select([connection], [], [], PACE_S)[0]:
                try:
                    return connection.recv(65_536)
                except ConnectionError:
                    return b""
            assert time.monotonic() < deadline, "neither answered nor closed"
    raise AssertionError


class Trickling(threading.Thread):
    """Several clients that trickle *data* at the same time; `received` has what each got back."""

    def __init__(self, address, data, clients) -> None:
        super().__init__()
        self.received = []
        self._threads = [
            threading.Thread(target=lambda: self.received.append(trickle(address, data)))
            for _ in range(clients)
        ]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()


def open_files(site) -> int:
    return len(list(Path(f"/proc/{site.process.pid}/fd").iterdir()))


def reset(connection: socket.socket) -> None:
    """Close with a reset, as a client does that crashes or loses its network."""
    connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, sys.byteorder) + bytes(4)
    )
    connection.close()


def assert_no_errors(site) -> None:
    assert "level=error" not in site.process.stderr


@BOTH_FRONTS
class TestSlowClients:
    def test_a_head_that_trickles_is_cut_off(self, start_server):
        """A head must be complete within keepalive_timeout_s; others are served meanwhile."""
        site = start_server("--keepalive-timeout-s", "1")
        slow = Trickling(site.address, b"POST /v1/t HTTP/1.1\r\nX-Slow: ", clients=20)
        slow.start()
        ids = []
        while slow.is_alive():
            ids.append(new_id())
            assert site.post({"type": "track", "messageId": ids[-1]}).status == 200
        slow.join()

        assert slow.received == [b""] * 20
        assert len(site.stored(*ids)) == len(ids)
        assert_no_errors(site)

    def test_a_head_that_trickles_on_a_kept_connection_is_cut_off(self, start_server):
        """The limit holds for the second request of a connection as for the first."""
        site = start_server("--keepalive-timeout-s", "1")
        first = event_request(new_id())
        with socket.create_connection(site.address, timeout=DEADLINE_S) as connection:
            connection.sendall(first)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
            connection.sendall(b"POST /v1/t HT")
            assert connection.recv(65_536) == b""

    def test_a_body_that_trickles_is_cut_off(self, start_server):
        """A body must be complete within body_timeout_s; others are served meanwhile."""
        site = start_server("--body-timeout-s", "1")
        head = f"POST {FLAT} HTTP/1.1\r\nHost: t\r\n{KEY_HEADER}\r\nContent-Length: 100000\r\n\r\n"
        # The head goes at once with the first bytes of the body, which then trickles.
        slow = Trickling(site.address, head.encode(), clients=20)
        slow.start()
        ids = []
        while slow.is_alive():
            ids.append(new_id())
            assert site.post({"type": "track", "messageId": ids[-1]}).status == 200
        slow.join()

        assert all(received.startswith(b"HTTP/1.1 503 ") for received in slow.received)
        assert all(b'"body_timeout"' in received for received in slow.received)
        assert len(site.stored(*ids)) == len(ids)
        assert_no_errors(site)

    def test_bodies_in_flight_are_bounded(self, start_server):
        """Above reading_bytes_max of bodies that are being received, the answer is 503."""
        site = start_server("--reading-bytes-max", str(MIB), "--body-bytes-max", str(MIB))
        head = f"POST {FLAT} HTTP/1.1\r\nHost: t\r\n{KEY_HEADER}\r\nContent-Length: 900000\r\n\r\n"
        part = head.encode() + b"[" * 800_000
        with contextlib.ExitStack() as stack:
            slow = [
                stack.enter_context(socket.create_connection(site.address, timeout=DEADLINE_S))
                for _ in range(4)
            ]
            for connection in slow:
                connection.sendall(part)
            refused = []

            def one_fits() -> bool:
                refused.extend(select.select(slow, [], [], 0)[0])
                return len(set(refused)) == 3

            wait_until(one_fits)
            answers = [connection.recv(65_536) for connection in set(refused)]
            # A small event still finds room, for it comes in one piece.
            assert site.post({"type": "track", "messageId": new_id()}).status == 200

        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
        assert all(b'"overloaded"' in answer and b"Retry-After: " in answer for answer in answers)
        # The room is free again once the slow ones are gone.
        large = {"type": "track", "messageId": new_id(), "properties": {"text": "x" * 900_000}}
        wait_until(lambda: site.post(large).status == 200)
        assert_no_errors(site)


class TestManyConnections:
    def test_ten_thousand_idle_connections_cost_little(self, start_server):
        """Idle connections cost a bounded piece of memory each, and others are served beside."""
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < IDLE_CONNECTIONS + 1_000:
            skip_or_fail(f"a process may open {hard} files here")
        site = start_server("--keepalive-timeout-s", "600")
        assert site.post({"type": "track", "messageId": new_id()}).status == 200
        files, before = open_files(site), memory_of(site.process.pid)["VmRSS"]
        command = [sys.executable, idle_clients.__file__, str(site.address[1])]
        with subprocess.Popen(
            [*command, str(IDLE_CONNECTIONS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as clients:
            assert int(clients.stdout.readline()) == IDLE_CONNECTIONS
            wait_until(lambda: open_files(site) > IDLE_CONNECTIONS, deadline_s=DEADLINE_S)
            ids = [new_id() for _ in range(100)]
            for event_id in ids:
                assert site.post({"type": "track", "messageId": event_id}).status == 200
            cost = (memory_of(site.process.pid)["VmRSS"] - before) / IDLE_CONNECTIONS
            print(f"{cost / 1024:.1f} KiB for an idle connection")  # noqa: T201
            clients.stdin.close()
        wait_until(lambda: open_files(site) < files + 50, deadline_s=DEADLINE_S)

        assert len(site.stored(*ids)) == len(ids)
        assert cost < BYTES_PER_IDLE_CONNECTION_MAX
        assert_no_errors(site)

    @BOTH_FRONTS
    def test_more_connections_than_allowed_are_refused_with_503(self, start_server):
        """Above connections_max a client gets a whole 503 at once; room that gets free is used."""
        site = start_server("--connections-max", "20")
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(socket.create_connection(site.address, timeout=DEADLINE_S))
            # A client that is let in would be answered 404, one that is refused is before it asks.
            for sent in (b"", event_request(new_id()), event_request(new_id()) * 50):
                refused = Connection(site.address)
                refused.send(sent)
                status, headers, body = refused.answer()
                with pytest.raises(ConnectionEnded):
                    refused.answer()
                refused.close()
                assert (status, json.loads(body)["code"]) == (503, "overloaded")
                assert headers["content-type"] == "application/json"
                assert int(headers["retry-after"]) == int(headers["x-ratelimit-reset"]) == 5
        event_id = new_id()
        event = {"type": "track", "messageId": event_id}
        wait_until(lambda: site.post(event).status == 200)

        assert len(site.stored(event_id)) == 1
        assert len(site.process.events()) == 1
        assert_no_errors(site)


@BOTH_FRONTS
class TestClientsThatVanish:
    def test_events_of_clients_that_vanish_are_stored_at_most_once(self, start_server):
        """A client that is gone before its answer costs nobody anything, and logs no error."""
        site = start_server()
        gone, ids = [new_id() for _ in range(300)], []
        for number, event_id in enumerate(gone):
            data = event_request(event_id)
            connection = socket.create_connection(site.address, timeout=DEADLINE_S)
            # Some vanish within the head, some within the body, most behind it.
            connection.sendall(data[: (40, len(data) - 5, None, None, None)[number % 5]])
            if number % 2:
                reset(connection)
            else:
                connection.close()
            if number % 10 == 0:
                ids.append(new_id())
                assert site.post({"type": "track", "messageId": ids[-1]}).status == 200
        assert len(site.stored(*ids)) == len(ids)
        # What they sent was taken before this event, or never will be.
        last = new_id()
        assert site.post({"type": "track", "messageId": last}).status == 200
        site.stored(last)

        stored = [id_of(event) for event in site.process.events()]
        assert len(stored) == len(set(stored))
        whole = {event_id for number, event_id in enumerate(gone) if number % 5 > 1}
        assert set(stored) <= whole | {*ids, last}
        assert_no_errors(site)

    def test_a_client_that_never_reads_is_not_read_from(self, start_server):
        """Who pipelines and reads no answers is stopped by full buffers; memory stays level."""
        # With durability `memory`, what waits for the disk would count too; it has its own limit.
        site = start_server()
        data = event_request(new_id()) * 200
        site.post({"type": "track"})
        before = memory_of(site.process.pid)["VmRSS"]
        with socket.socket() as connection:
            # Answers find little room at the client, so that its buffer is no part of the test.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
            connection.settimeout(2)
            connection.connect(site.address)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < SENT_BYTES_MAX:
                    sent += connection.send(data)
            grown = memory_of(site.process.pid)["VmRSS"] - before
            event_id = new_id()
            assert site.post({"type": "track", "messageId": event_id}).status == 200
        print(f"stopped after {sent / MIB:.0f} MiB, {grown / MIB:.0f} MiB more")  # noqa: T201

        assert sent < SENT_BYTES_MAX
        assert grown < 32 * MIB
        assert len(site.stored(event_id)) == 1
        assert_no_errors(site)
