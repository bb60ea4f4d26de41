"""Sends a running server damaged requests and says what it made of them.

    python -m tests.http.fuzzing --requests 100000 --seed 1

A *shot* is the bytes of one request. A framed one is HTTP that ends where it says, whatever it
carries; it goes over a connection that is kept, and must be answered. An unframed one is broken as
HTTP; it has a connection of its own, and must be answered or cut off. Good events go between them
and in one batch with bad items; each that was answered with 200 must be stored exactly once.

Shots depend on the seed alone. They are sent by threads, so their order among each other does not.
"""

import argparse
import collections
import contextlib
import dataclasses
import gzip
import json
import queue
import random
import socket
import sys
import tempfile
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import brotli

from tests.server_process import ServerProcess
from tests.site import COMPAT, FLAT, KEY, basic, id_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ANSWER_TIMEOUT_S = 30.0
"""Longest wait for an answer or the connection's end; beyond it a shot counts as hanging."""
KEPT_CONNECTIONS = 6
OWN_CONNECTIONS = 48
"""Most of these wait for the server's time limit on a request that never ends."""
UNFRAMED_SHARE = 0.1
WARM_UP_SHARE = 0.2
"""Of all shots; caches are filled and buffers grown after them, then memory must stay level."""
SERVER_FLAGS = ("--body-timeout-s", "2", "--keepalive-timeout-s", "5")
"""Short limits, so that requests that never end don't hold the run up."""

ANSWERS = frozenset((200, 304, 400, 401, 404))
# Not segsrv's own: an `Expect` that nobody knows is refused before a handler is asked.
ANSWERS_OF_AIOHTTP = frozenset((417,))
UNAVAILABLE_BY_LIMIT = frozenset(("body_timeout", "overloaded"))
FAULTS_SHOWN, FAULT_CHARS_MAX = 20, 600
ERROR_FIELDS = {"status", "code", "message", "error"}

COMPRESSORS = {
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "deflate": zlib.compress,
    "br": lambda data: brotli.compress(data, quality=1),
    "zstd": zstd.compress,
}
PATHS = (FLAT, COMPAT, f"{FLAT}/v1/batch", f"{COMPAT}/v1/batch", "/v1/batch", "/v1/t", "/v1/m")


@dataclass(slots=True)
class Shot:
    kind: str
    data: bytes
    is_framed: bool = True
    method: str = "POST"
    vanishes: bool = False
    """The client closes without waiting for an answer."""
    must_be_ok: bool = False
    event_ids: tuple[str, ...] = ()
    """Good events in it; if it is answered with 200 they must be stored."""


@dataclass
class Report:
    """What happened; `faults` is empty if the server behaved."""

    shots: collections.Counter = field(default_factory=collections.Counter)
    answers: collections.Counter = field(default_factory=collections.Counter)
    cut_off: int = 0
    vanished: int = 0
    reconnects: int = 0
    accepted_ids: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    resident_before: int = 0
    resident_after: int = 0
    resident_peak: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        mib = 1 << 20
        rows = [
            f"{sum(self.shots.values())} requests in {self.seconds:.0f} s, by kind "
            + ", ".join(f"{kind} {count}" for kind, count in sorted(self.shots.items())),
            "answers "
            + ", ".join(f"{name} {count}" for name, count in sorted(self.answers.items())),
            f"cut off without an answer {self.cut_off}",
            f"clients that vanished {self.vanished}, that had to reconnect {self.reconnects}",
            f"good events accepted and stored once {len(self.accepted_ids)}",
            f"resident after warm-up {self.resident_before / mib:.1f} MiB",
            f"resident at the end {self.resident_after / mib:.1f} MiB",
            f"resident at most {self.resident_peak / mib:.1f} MiB",
            f"faults {len(self.faults)}",
        ]
        return "\n".join(
            [*rows, *(fault[:FAULT_CHARS_MAX] for fault in self.faults[:FAULTS_SHOWN])]
        )


# --- What a client says --------------------------------------------------------------------------


def request(path, body, headers=(), *, method="POST", version="1.1") -> bytes:
    """Return the bytes of a request; *headers* are lines, as text or bytes."""
    lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *headers]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return b"\r\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + body


def event(rng, **fields) -> dict:
    """Return an event as SDKs send them, with an id of its own."""
    kind = rng.choice(("track", "identify", "page", "screen", "group", "alias"))
    return {
        "type": kind,
        "messageId": f"{rng.getrandbits(128):032x}",
        "event": "Order Completed",
        "userId": rng.choice((None, "u1", 42)),
        "anonymousId": f"{rng.getrandbits(64):x}",
        "properties": {
            "total": rng.random(),
            "products": [{"sku": "a"}, {"sku": "b"}],
            "note": "ü",
        },
        "traits": {"email": "a@example.com", "age": 3},
        "context": {
            "ip": f"81.2.69.{rng.randrange(256)}",
            "page": {"url": "https://example.com/?q=1", "title": "Shop"},
            "userAgent": f"Mozilla/5.0 (X11; rv:{rng.randrange(200)}.0) Gecko/20100101 Firefox/1.0",
            "library": {"name": "analytics.js", "version": "next-1.84.3"},
        },
        "integrations": {"Segment.io": True},
        "timestamp": "2026-01-02T03:04:05.678Z",
        **fields,
    }


def body_of(rng) -> bytes:
    """Return a realistic body: one event, or a batch."""
    if rng.random() < 0.5:
        return json.dumps(event(rng)).encode()
    batch = [event(rng) for _ in range(rng.randrange(1, 6))]
    return json.dumps({"batch": batch, "sentAt": "2026-01-02T03:04:05Z"}).encode()


# --- Bodies that are damaged, in HTTP that is whole ----------------------------------------------


def flipped(rng, data) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.randrange(1, 9)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def cut(rng, data) -> bytes:
    return data[: rng.randrange(len(data))]


def inserted(rng, data) -> bytes:
    at = rng.randrange(len(data) + 1)
    scrap = rng.choice((b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\x00", b"\xff", b"null"))
    return data[:at] + scrap * rng.randrange(1, 6) + data[at:]


def repeated(rng, data) -> bytes:
    begin = rng.randrange(len(data))
    end = rng.randrange(begin, len(data)) + 1
    return data[:end] + data[begin:]


def invalid_utf8(rng, data) -> bytes:
    at = rng.randrange(len(data) + 1)
    scrap = rng.choice(
        (b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf")
    )
    return data[:at] + scrap + data[at:]


def nul_bytes(rng, data) -> bytes:
    return data.replace(b"e", rng.choice((b"\x00", b"\\u0000")), rng.randrange(1, 4))


def nested(rng, _data) -> bytes:
    depth = rng.choice((260, 990, 1_030, 5_000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    deep = opening * depth + b"1" + closing * depth
    if rng.random() < 0.5:
        return deep
    return b'{"type":"track","properties":{"deep":%s}}' % deep


def huge_numbers(rng, _data) -> bytes:
    number = rng.choice(
        (b"1" + b"0" * 400, b"9" * 5_000, b"-1e999999", b"1e-999999", b"0." + b"3" * 5_000, b"NaN")
    )
    return b'{"type":"track","userId":%s,"properties":{"n":%s},"timestamp":%s}' % ((number,) * 3)


def duplicate_keys(rng, data) -> bytes:
    name = rng.choice((b"type", b"messageId", b"context", b"properties", b"batch", b"timestamp"))
    pairs = (b'"%s":%s' % (name, value) for value in (b"1", b'"x"', b"[]", b"null", b"{}"))
    return b"{" + b",".join(pairs) + b"," + data[1:]


def wrong_shapes(rng, _data) -> bytes:
    """Return an event whose fields hold what they should not."""

    def anything():
        return rng.choice(
            (None, True, -1.5, "", "x" * 300, [], [1], {}, {"a": []}, "\ud800", "0-9")
        )

    damaged = event(rng)
    for name in list(damaged):
        if rng.random() < 0.4:
            damaged[name] = anything()
    for name in ("context", "properties", "traits"):
        if isinstance(damaged[name], dict):
            damaged[name][rng.choice(("ip", "page", "userAgent", "location", "x"))] = anything()
    return json.dumps(damaged).encode()


def just_bytes(rng, _data) -> bytes:
    return rng.randbytes(rng.randrange(2_000))


BODIES = {
    function.__name__: function
    for function in (
        *(flipped, cut, inserted, repeated, invalid_utf8, nul_bytes, nested, huge_numbers),
        *(duplicate_keys, wrong_shapes, just_bytes),
    )
}


def damaged_body(rng) -> Shot:
    kind = rng.choice(tuple(BODIES))
    # Deep bodies are large; a run of them alone would measure little else.
    if kind == "nested" and rng.random() < 0.8:
        kind = "flipped"
    body = BODIES[kind](rng, body_of(rng))
    return Shot(kind, request(rng.choice(PATHS), body, [authorization(rng)]))


def damaged_encoding(rng) -> Shot:
    """Compress a body and damage the result, or name another encoding than it has."""
    name = rng.choice(tuple(COMPRESSORS))
    data = COMPRESSORS[name](body_of(rng))
    damage = rng.randrange(6)
    if damage == 0:
        data = flipped(rng, data)
    elif damage == 1:
        data = cut(rng, data)
    elif damage == 2:
        data += rng.choice((data, rng.randbytes(50), b"\x00" * 50))
    elif damage == 3:
        data = inserted(rng, data)
    elif damage == 4:
        name = rng.choice(tuple(COMPRESSORS))
    else:
        name = rng.choice(("gzip, gzip", "x-gzip", "compress", "GZIP", "identity", "", "\tzstd "))
    headers = [authorization(rng), f"Content-Encoding: {name}"]
    return Shot("encoding", request(rng.choice(PATHS), data, headers))


def odd_headers(rng) -> Shot:
    long = "x" * rng.choice((10, 1_000, 7_900))
    odd = (
        f"User-Agent: {long}{rng.random()}",
        f"X-Forwarded-For: {rng.random()}, {long}",
        "X-Forwarded-For: " + ", ".join(["81.2.69.142"] * rng.randrange(1, 400)),
        f"Forwarded: for={long};by=,for=[::1]:99999, for=unknown",
        f"X-Real-IP: {long}",
        f"Origin: https://{long}.example.com",
        "Origin: null",
        "Origin: http://\u00e9.example.com",
        f"Cookie: a={long}; a; =; ;;",
        f"Content-Type: {rng.choice(('', ';', 'application/json; charset=x', 'text/é'))}",
        "Accept-Encoding: gzip;q=x, *",
        "Expect: something",
        "Range: bytes=0-1,5-",
        "If-None-Match: *",
        "X-Retry-Count: -1",
        "Authorization: Basic",
        f"Authorization: Basic {long}",
        "Authorization: Bearer x",
        "Authorization: \u00e9",
        f"X-Write-Key: {long}",
        "api_key: \u00ff",
    )
    headers = [authorization(rng), *rng.sample(odd, rng.randrange(1, 5))]
    rng.shuffle(headers)
    if rng.random() < 0.2:
        headers += [f"X-{number}: y" for number in range(100)]
    return Shot("headers", request(rng.choice(PATHS), body_of(rng), headers))


def odd_path(rng) -> Shot:
    paths = (
        f"//api///v1/segment//{rng.choice(('', 'v1/', 'v1//batch/'))}",
        f"{FLAT}?token={KEY}&token=&p_=&ip_policy=%ff&cookie_policy=strict&cookie_policy=",
        f"{FLAT}?{'a=b&' * 900}",
        f"{FLAT}/%2e%2e/%00/%ff/\u00fc",
        f"{FLAT}/../../etc/passwd",
        "/" + "a" * rng.choice((100, 7_000)),
        "/v1/projects/%00%ff/settings",
        f"/v1/projects/{KEY}/settings?x=%",
        "http://example.com/v1/batch",
        "/" + "".join(chr(rng.randrange(33, 127)) for _ in range(30)).replace("#", ""),
        "/%",
        "/;a=b?;&&==",
    )
    method = rng.choice(("POST", "POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"))
    headers = [authorization(rng), "Access-Control-Request-Headers: a, b, \u00e9, " + "c" * 3_000]
    data = request(rng.choice(paths), body_of(rng), headers, method=method)
    return Shot("path", data, method=method)


def authorization(rng) -> str:
    if rng.random() < 0.95:
        return f"Authorization: {basic(KEY)}"
    return rng.choice(("X-Write-Key: wrong", "Authorization: Basic %%%", "X-Nothing: 1"))


# --- Requests that are broken as HTTP ------------------------------------------------------------


def wrong_length(rng) -> Shot:
    body = body_of(rng)
    size = len(body)
    wrong = ["-1", "x", "", "1e3", "+5", "0x10", str(10**12), "9" * 40]
    wrong += [str(size + more) for more in (-5, -1, 1, 50)]
    wrong += [f"{size}, {size}", f"{size}\r\nContent-Length: 3"]
    length = rng.choice(wrong)
    head = f"POST {FLAT} HTTP/1.1\r\nHost: t\r\n{authorization(rng)}\r\nContent-Length: {length}"
    return Shot("length", head.encode() + b"\r\n\r\n" + body)


def wrong_chunks(rng) -> Shot:
    body = body_of(rng)
    size = rng.choice(
        (f"{len(body):x}", "ffffffff", "f" * 40, "-1", "", "g", f"{len(body):x};a=\x01")
    )
    end = rng.choice(
        ("\r\n0\r\n\r\n", "\r\n0\r\nX: y\r\n\r\n", "\n0\n\n", "", "\r\n0\r\n", "0\r\n\r\n")
    )
    extra = rng.choice(("", "", "Content-Length: 10\r\n", "Transfer-Encoding: gzip\r\n"))
    head = f"POST {FLAT} HTTP/1.1\r\nHost: t\r\n{authorization(rng)}\r\n{extra}"
    head += f"Transfer-Encoding: chunked\r\n\r\n{size}\r\n"
    return Shot("chunks", head.encode() + body + end.encode())


def long_head(rng) -> Shot:
    what = rng.randrange(4)
    if what == 0:
        return Shot("long_head", request("/" + "a" * 20_000, b"{}"))
    if what == 1:
        return Shot(
            "long_head", request(FLAT, b"{}", ["X-Long: " + "a" * rng.choice((9_000, 300_000))])
        )
    if what == 2:
        return Shot("long_head", request(FLAT, b"{}", [f"X-{n}: y" for n in range(1_000)]))
    return Shot("long_head", request(FLAT, b"{}", [f"{'N' * 20_000}: y"]))


def broken_head(rng) -> Shot:
    data = request(FLAT, b"{}", [authorization(rng)])
    body = rng.choice(
        (
            data.replace(b"\r\n", b"\n"),
            data.replace(b"\r\n", b"\r"),
            data.replace(b"Host", b"Ho\x00st"),
            data.replace(b"HTTP/1.1", rng.choice((b"HTTP/9.9", b"HTTP/1", b"", b"ICY"))),
            data.replace(b"POST", rng.choice((b"", b"P\xc3\xb6ST", b"post", b"CONNECT", b"BREW"))),
            data.replace(b"Host: 127.0.0.1", b"Host: a\r\nHost: b"),
            data.replace(b"Host: 127.0.0.1\r\n", b""),
            data.replace(b"Host: 127.0.0.1", b"Connection: upgrade\r\nUpgrade: websocket"),
            data.replace(
                b"Host: 127.0.0.1", b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings"
            ),
            data.replace(b"Host:", b" folded:\r\n\tmore:"),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
            b"\r\n" * 1_000,
            b"GET\r\n\r\n",
            rng.randbytes(rng.randrange(1, 3_000)),
        )
    )
    return Shot("head", body)


def flipped_anywhere(rng) -> Shot:
    data = request(rng.choice(PATHS), body_of(rng), [authorization(rng)])
    return Shot(
        "anywhere", BODIES[rng.choice(("flipped", "cut", "inserted", "repeated"))](rng, data)
    )


UNFRAMED = (wrong_length, wrong_chunks, long_head, broken_head, flipped_anywhere)


# --- Good events ---------------------------------------------------------------------------------


def good_event(rng) -> Shot:
    good = event(rng)
    data = request(rng.choice((FLAT, COMPAT)), json.dumps(good).encode(), [f"X-Write-Key: {KEY}"])
    return Shot("good", data, must_be_ok=True, event_ids=(good["messageId"],))


def good_among_bad(rng) -> Shot:
    """Put bad items beside good ones; such a batch is valid, and answered with 200."""
    deep = {}
    for _ in range(rng.choice((100, 240, 300, 500))):
        deep = {"a": deep}
    bad = (None, 1, "x", [], [[]], {}, {"type": {}}, {"properties": deep}, {"context": [1]})
    good = [event(rng) for _ in range(2)]
    items = [good[0], *rng.sample(bad, 4), good[1]]
    data = request(
        rng.choice((FLAT, COMPAT)) + "/v1/batch",
        json.dumps({"batch": items}).encode(),
        [f"X-Write-Key: {KEY}"],
    )
    ids = tuple(one["messageId"] for one in good)
    return Shot("good_among_bad", data, must_be_ok=True, event_ids=ids)


def framed_shot(rng) -> Shot:
    part = rng.random()
    if part < 0.60:
        return damaged_body(rng)
    if part < 0.75:
        return damaged_encoding(rng)
    if part < 0.84:
        return odd_headers(rng)
    if part < 0.92:
        return odd_path(rng)
    return good_event(rng) if part < 0.97 else good_among_bad(rng)


def unframed_shot(rng) -> Shot:
    shot = rng.choice(UNFRAMED)(rng)
    return dataclasses.replace(shot, is_framed=False, vanishes=rng.random() < 0.3)


# --- Sending -------------------------------------------------------------------------------------


class ConnectionEnded(Exception):
    """The server closed the connection; `received` is what came before."""

    def __init__(self, received: bytes) -> None:
        super().__init__(f"closed after {len(received)} bytes")
        self.received = received


class Connection:
    """One client's connection, read just as far as its answers go."""

    def __init__(self, address) -> None:
        self._socket = socket.create_connection(address, timeout=ANSWER_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self.answers = 0

    def close(self) -> None:
        self._socket.close()

    def send(self, data) -> None:
        # The server may answer and close before it has read all, which is its right.
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def answer(self, *, method="POST") -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (lower-case names) and body of the next final answer.

        Raises:
            ConnectionEnded: There is none.
            TimeoutError: Neither an answer nor an end came in time.

        """
        while True:
            head = self._read_until(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ", 2)[1])
            if status >= 200:
                break
        # What aiohttp makes of a head that it can't read is HTTP/1.0, which ends the connection.
        headers = {"connection": "close"} if lines[0].startswith("HTTP/1.0") else {}
        for line in lines[1:]:
            name, _colon, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = 0 if method == "HEAD" or status == 304 else int(headers.get("content-length", 0))
        body = self._read(length)
        self.answers += 1
        return status, headers, body

    def _read_until(self, mark) -> bytes:
        while mark not in self._received:
            self._receive()
        found, _mark, self._received = self._received.partition(mark)
        return found

    def _read(self, length) -> bytes:
        while len(self._received) < length:
            self._receive()
        found, self._received = self._received[:length], self._received[length:]
        return found

    def _receive(self) -> None:
        try:
            part = self._socket.recv(65_536)
        except ConnectionError:
            part = b""
        if not part:
            raise ConnectionEnded(self._received)
        self._received += part


class Fuzzer:
    """Sends shots to one server and keeps the report."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.report = Report()
        self.kept: Connection | None = None
        """For a caller that sends shots one by one over a connection that is kept."""
        self._address = ("127.0.0.1", process.port)
        self._lock = threading.Lock()

    def run(self, requests: int, seed: int) -> Report:
        """Send *requests* mutated shots, of which the first fifth is the warm-up."""
        began = time.monotonic()
        warm_up = int(requests * WARM_UP_SHARE)
        self._run_part(warm_up, f"{seed}-warm-up")
        self.report.resident_before = memory_of(self.process.pid)["VmRSS"]
        self._run_part(requests - warm_up, f"{seed}")
        self.report.resident_after = memory_of(self.process.pid)["VmRSS"]
        self.report.resident_peak = memory_of(self.process.pid)["VmHWM"]
        self.report.seconds = time.monotonic() - began
        self.check_stored()
        return self.report

    def check_stored(self) -> None:
        """Note as faults: an event that was accepted and is not stored once, a logged error."""
        report = self.report
        wanted = collections.Counter(report.accepted_ids)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            found = collections.Counter(
                event_id
                for stored in self.process.events()
                if (event_id := id_of(stored)) in wanted
            )
            if found.keys() == wanted.keys() or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        report.faults += [
            f"event {event_id} is stored {found[event_id]} times"
            for event_id in wanted
            if found[event_id] != 1
        ]
        report.faults += [
            f"logged: {line[:2_000]}"
            for line in self.process.stderr.splitlines()
            if "level=error" in line or "level=critical" in line or "Traceback" in line
        ]
        if self.process.exit_code is not None:
            report.faults.append(f"the server ended with {self.process.exit_code}")

    def _run_part(self, requests: int, seed: str) -> None:
        unframed = int(requests * UNFRAMED_SHARE)
        own = [
            threading.Thread(target=self._send_each_alone, args=(shots,))
            for shots in [self._unframed(unframed, seed)] * OWN_CONNECTIONS
        ]
        share, rest = divmod(requests - unframed, KEPT_CONNECTIONS)
        kept = [
            threading.Thread(
                target=self._send_over_kept,
                args=(random.Random(f"{seed}-{number}"), share + (number < rest)),
            )
            for number in range(KEPT_CONNECTIONS)
        ]
        for thread in own + kept:
            thread.start()
        for thread in own + kept:
            thread.join()

    @staticmethod
    def _unframed(count: int, seed: str) -> queue.SimpleQueue:
        rng = random.Random(f"{seed}-unframed")
        shots = queue.SimpleQueue()
        for _ in range(count):
            shots.put(rng.getrandbits(64))
        return shots

    def _send_each_alone(self, seeds: queue.SimpleQueue) -> None:
        while True:
            try:
                seed = seeds.get_nowait()
            except queue.Empty:
                return
            self.send_alone(unframed_shot(random.Random(seed)))

    def _send_over_kept(self, rng: random.Random, count: int) -> None:
        with contextlib.ExitStack() as stack:
            connection = None
            for _ in range(count):
                connection = self.send_framed(framed_shot(rng), connection)
                if connection is not None:
                    stack.pop_all()
                    stack.callback(connection.close)

    def send_framed(self, shot: Shot, connection: Connection | None) -> Connection | None:
        """Send *shot* over *connection*, or a new one; return it if it can carry another."""
        was_used = connection is not None
        connection = connection or Connection(self._address)
        try:
            connection.send(shot.data)
            status, headers, body = connection.answer(method=shot.method)
        except ConnectionEnded as end:
            connection.close()
            if was_used and not end.received:
                # The server may close a connection that it keeps whenever it is idle.
                with self._lock:
                    self.report.reconnects += 1
                return self.send_framed(shot, None)
            self._note(shot, fault="was cut off")
            return None
        except TimeoutError:
            connection.close()
            self._note(shot, fault="was not answered in time")
            return None
        self._judge(shot, status, headers, body)
        if headers.get("connection", "").lower() == "close":
            connection.close()
            return None
        return connection

    def send_alone(self, shot: Shot) -> None:
        """Send *shot* over a connection of its own; it may be answered or cut off."""
        connection = Connection(self._address)
        with contextlib.closing(connection):
            connection.send(shot.data)
            if shot.vanishes:
                with self._lock:
                    self.report.shots[shot.kind] += 1
                    self.report.vanished += 1
                return
            try:
                answer = connection.answer(method=shot.data.split(b" ", 1)[0].decode("latin-1"))
            except ConnectionEnded:
                with self._lock:
                    self.report.shots[shot.kind] += 1
                    self.report.cut_off += 1
            except TimeoutError:
                self._note(shot, fault="was neither answered nor cut off in time")
            else:
                self._judge(shot, *answer)

    def _judge(self, shot: Shot, status: int, headers: dict[str, str], body: bytes) -> None:
        name, fault = str(status), None
        is_json = headers.get("content-type", "").startswith("application/json")
        if status == 503 and is_json:
            code = json.loads(body)["code"]
            name = f"503 {code}"
            if code not in UNAVAILABLE_BY_LIMIT:
                fault = f"was answered {name}"
        elif status not in ANSWERS | ANSWERS_OF_AIOHTTP:
            fault = f"was answered {status}"
        elif shot.must_be_ok and status != 200:
            fault = f"is right and was answered {status} {body[:300]!r}"
        if status >= 400 and body:
            if is_json and set(json.loads(body)) != ERROR_FIELDS:
                fault = f"was answered {body[:300]!r}"
            if not is_json:
                name += " by aiohttp"
                if shot.is_framed and status not in ANSWERS_OF_AIOHTTP:
                    fault = f"was answered {status} as no JSON: {body[:300]!r}"
        self._note(shot, name, fault)
        if status == 200:
            with self._lock:
                self.report.accepted_ids += shot.event_ids

    def _note(self, shot: Shot, answer: str | None = None, fault: str | None = None) -> None:
        with self._lock:
            self.report.shots[shot.kind] += 1
            if answer is not None:
                self.report.answers[answer] += 1
            if fault is not None:
                data = shot.data if len(shot.data) < 3_000 else shot.data[:3_000] + b"..."
                self.report.faults.append(f"{shot.kind} {fault}: {data!r}")


def memory_of(pid: int) -> dict[str, int]:
    """Return what the kernel says of a process's memory, in bytes."""
    rows = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[-1:] == ["kB"]}


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="segsrv-fuzzing-") as folder,
        ServerProcess(Path(folder) / "data", *SERVER_FLAGS, write_keys=(KEY,)) as process,
    ):
        report = Fuzzer(process).run(options.requests, options.seed)
    print(report)  # noqa: T201 - a command prints.
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
