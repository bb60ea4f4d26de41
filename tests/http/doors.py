"""Says the same to both doors of a server, and shows where they differ.

    python -m tests.http.doors --conversations 20000 --seed 1

A *conversation* is what one client sends over one connection: whole requests, one behind the other
without a wait, in packets that end anywhere; and when they are answered one that is odd, damaged or
broken. It depends on its number and the seed alone. A server with `--front raw` and one with
`--front aiohttp`, each with a data directory of its own, must give the same bytes for it, but for
dates, and store the same lines, but for the ids and times that a server makes.

Two differences are known. Where a broken request comes in one packet with whole ones before it,
aiohttp answers the broken one only, and the raw door all. And how a request is refused that never
becomes whole, or whose compressed body is broken, depends on when its bytes and the client's end
come: aiohttp, which stands behind the raw door too, may also close without an answer, or wait for
more until the body is overdue.
"""

import argparse
import collections
import contextlib
import datetime as dt
import random
import re
import select
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.http import fuzzing
from tests.http.fuzzing import authorization, body_of, request
from tests.site import COMPAT, FLAT, FRONTS, KEY, Site, started_site

SERVER_FLAGS = ("--body-bytes-max", "60000", "--body-timeout-s", "2", "--keepalive-timeout-s", "5")
ANSWER_TIMEOUT_S = 30.0
REQUESTS_MAX = 6
CUTS_MAX = 5
PAUSE_S = 0.001
"""Between packets, so that most arrive as they were sent."""
QUIET_S = 0.2
"""A request that was not answered so soon is one that waits for more."""
STORED_TIMEOUT_S = 20.0
FAULTS_SHOWN, FAULT_CHARS_MAX = 10, 3_000

_DATE = re.compile(rb"\r\nDate: [^\r]*")
_CLOSE = re.compile(rb"\r\nConnection: close")
_MADE_ID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CLIENT_ID = re.compile(rb"\b[0-9a-f]{32}\b")
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+Z")


@dataclass
class Report:
    conversations: int = 0
    statuses: collections.Counter = field(default_factory=collections.Counter)
    ahead: int = 0
    """Of them, those in which the raw door answered what aiohttp left out, as is known."""
    lines: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        answered = ", ".join(f"{name} {count}" for name, count in sorted(self.statuses.items()))
        rows = [
            f"conversations {self.conversations}, ahead in {self.ahead}, lines {self.lines}",
            f"answers {answered}",
            f"differences {len(self.faults)}",
        ]
        return "\n".join(
            [*rows, *(fault[:FAULT_CHARS_MAX] for fault in self.faults[:FAULTS_SHOWN])]
        )


# --- What a client says --------------------------------------------------------------------------

HEADERS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0",
    "X-Forwarded-For: 81.2.69.142",
    "x-forwarded-for:  8.8.8.8 , 10.0.0.1 \t",
    "X-Forwarded-For: 8.8.8.8\r\nX-Forwarded-For: 81.2.69.142",
    "Origin: https://shop.example",
    "Origin: https://sh\u00f6p.example",
    b"User-Agent: \xff\xfe",
    "Connection: keep-alive",
    "Connection: Keep-Alive",
    "connection: close",
    "Connection: keep-alive, x",
    "Keep-Alive: timeout=5",
    "Content-Type: text/plain",
    "Content-Type: application/json\r\nContent-Type: text/plain",
    "Accept:",
    "X-Empty: ",
    "X-Tab:\tvalue",
    "X-Colon: a:b: c",
    "X-Folded: a\r\n b",
    "X-Control: \x01",
    "X-Nul: \x00",
    "X-Long: " + "a" * 7_000,
    "X-Longer: " + "a" * 9_000,
    "X-Write-Key : " + KEY,
    "Content-Length: 3",
    "content-length: 0",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "Expect: 100-continue",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "TE: trailers",
    "Host: other",
    "Proxy-Connection: keep-alive",
    "Content-Encoding: identity",
    "Content-Encoding: gzip",
)
TARGETS = (
    *(FLAT, COMPAT, "/v1/batch", "/v1/track", "/v1/t", f"{FLAT}/v1/batch", "/api/v1/event"),
    *("/api.abc", "/v1/m", "/api/s/track", "/v1/batch/", "//v1/track", "/v1/tr%61ck"),
    *(f"/v1/track?writeKey={KEY}&ip_policy=strict", "/v1/track?cookie_policy=comply"),
    *("/v1/track#x", "/v1/track?a=%ff%zz&&=", "/v1/track?a=\u00e9", "/v1/track?", "/v1/track?x#y"),
    *("http://example.com/v1/track", "/v1/unknown", "/v1/pixel/track?data=e30=", "*"),
)


def plain(rng) -> bytes:
    """Return a request as SDKs send them all day."""
    headers = [f"X-Write-Key: {KEY}", *rng.sample(HEADERS[:2], rng.randrange(3))]
    return request(rng.choice((FLAT, COMPAT, "/v1/batch")), body_of(rng), headers)


def odd(rng) -> bytes:
    """Return a request with a head that two readers may read differently."""
    headers = [authorization(rng), *rng.sample(HEADERS, rng.randrange(4))]
    rng.shuffle(headers)
    method = rng.choice(("POST",) * 12 + ("GET", "OPTIONS", "PUT", "HEAD", "post"))
    version = rng.choice(("1.1",) * 12 + ("1.0", "1.2", "2.0"))
    body = rng.choice((body_of(rng), b"{}", b""))
    data = request(rng.choice(TARGETS), body, headers, method=method, version=version)
    form = rng.choice((b"Content-Length: ",) * 6 + LENGTHS)
    return data.replace(b"Content-Length: ", form)


LENGTHS = (
    b"content-length: ",
    b"CONTENT-LENGTH: ",
    b"Content-Length:",
    b"Content-Length:\t",
    b"Content-Length: 0",
    b"Content-Length: 0000000000000",
    b"Content-Length: +",
    b"Content-Length: -",
    b"Content-Length: 0x",
    b"Content-Length : ",
    b"Content_Length: ",
)


def chunked(rng) -> bytes:
    """Return a request whose body comes in chunks."""
    body = body_of(rng)
    at = rng.randrange(len(body))
    parts = [part for part in (body[:at], body[at:]) if part]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    head = f"POST {FLAT} HTTP/1.1\r\nHost: t\r\n{authorization(rng)}\r\n"
    return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def compressed(rng) -> bytes:
    """Return a request whose body is compressed."""
    name = rng.choice(tuple(fuzzing.COMPRESSORS))
    headers = [f"X-Write-Key: {KEY}", f"Content-Encoding: {name}"]
    return request(FLAT, fuzzing.COMPRESSORS[name](body_of(rng)), headers)


def large(rng) -> bytes:
    """Return a request whose body comes in several reads, or is over the limit."""
    note = "x" * rng.choice((17_000, 40_000, 70_000))
    batch = b'{"batch":[{"type":"track","note":"%b"}]}' % note.encode()
    return request(FLAT, batch, [authorization(rng)])


def key_in_body(rng) -> bytes:
    """Return a request whose key is in its body, or nowhere."""
    key = rng.choice((f'"writeKey":"{KEY}",', '"writeKey":"wrong",', ""))
    return request("/v1/batch", b"{%b%b" % (key.encode(), body_of(rng)[1:]))


def asked(rng) -> bytes:
    """Return what is no event: a probe, a preflight, a page's settings."""
    path = rng.choice(("/health", f"/v1/projects/{KEY}/settings", "/v1/pixel/track", "/nothing"))
    method = rng.choice(("GET", "HEAD", "OPTIONS"))
    head = f"{method} {path} HTTP/1.1\r\nHost: t\r\nOrigin: https://shop.example\r\n"
    return head.encode() + b"Access-Control-Request-Headers: x-a\r\n\r\n"


def damaged(rng) -> bytes:
    """Return whole HTTP with a body or a head that is damaged."""
    return fuzzing.framed_shot(rng).data


def broken(rng) -> bytes:
    """Return what is no whole request."""
    return fuzzing.unframed_shot(rng).data


def cut_short(rng) -> bytes:
    """Return a request whose end never comes."""
    data = rng.choice(WHOLE)(rng)
    return data[: rng.randrange(len(data))]


WHOLE = (*(plain,) * 6, chunked, compressed, large, key_in_body, asked)
LAST = (*(odd,) * 6, damaged, damaged, broken, cut_short)


@dataclass
class Conversation:
    whole: list[bytes]
    last: bytes
    is_whole: bool
    """Whether the last is a whole request, however odd it may be."""
    whole_cuts: list[int]
    last_cuts: list[int]


def conversation(rng) -> Conversation:
    whole = [rng.choice(WHOLE)(rng) for _ in range(rng.randrange(REQUESTS_MAX))]
    kind = rng.choice(LAST)
    last = kind(rng)
    cuts = cuts_of(rng, sum(map(len, whole))), cuts_of(rng, len(last))
    return Conversation(whole, last, kind is odd, *cuts)


def cuts_of(rng, size) -> list[int]:
    return sorted(rng.randrange(size + 1) for _ in range(rng.randrange(CUTS_MAX + 1)))


# --- Saying it -----------------------------------------------------------------------------------


def said(address, talk) -> bytes:
    """Say *talk* and return all that comes until the end."""
    received = b""
    with socket.create_connection(address, timeout=ANSWER_TIMEOUT_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _send(client, b"".join(talk.whole), talk.whole_cuts)
        while len(heads_of(received)) < len(talk.whole):
            part = client.recv(1 << 16)
            assert part, f"whole requests are not answered: {talk}, {received}"
            received += part
        # The server may answer and close before it has read all, which is its right.
        with contextlib.suppress(OSError):
            _send(client, talk.last, talk.last_cuts)
            received += _answer(client)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while part := client.recv(1 << 16):
                received += part
    return _DATE.sub(b"\r\nDate: -", received)


def _answer(client) -> bytes:
    """Return the last answer, if one comes before the client ends its side.

    Whether a server that is about to answer still does when it hears of that is a matter of luck.
    """
    received = b""
    while not set(heads_of(received)) - {b"100"} and select.select([client], [], [], QUIET_S)[0]:
        part = client.recv(1 << 16)
        if not part:
            break
        received += part
    return received


def _send(client, data, cuts) -> None:
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        client.sendall(data[start:end])
        if end < len(data):
            time.sleep(PAUSE_S)


def heads_of(received) -> list[bytes]:
    """Return the status of each answer; no body of segsrv's holds such a line."""
    return re.findall(rb"HTTP/1\.[01] (\d+) ", received)


def is_ahead(raw, aiohttp) -> bool:
    """Say whether the raw door answered what was before a broken request, and aiohttp did not."""
    before, mark, broken_one = aiohttp.rpartition(b"HTTP/1.0 400 ")
    return bool(mark) and raw.startswith(before) and raw.endswith(mark + broken_one)


def is_refused(raw, aiohttp, talk) -> bool:
    """Say whether what came last can't be read, and each door refused it in its way."""
    if talk.is_whole and b"Content-Encoding" not in talk.last:
        return False
    whole = len(talk.whole)
    refusals = heads_of(raw)[whole:], heads_of(aiohttp)[whole:]
    return _without_last(raw, whole) == _without_last(aiohttp, whole) and all(
        len(found) <= 1 and all(status[:1] in b"45" for status in found) for found in refusals
    )


def _without_last(received, whole) -> list[bytes]:
    """Return the first *whole* answers."""
    return re.split(rb"(?=HTTP/1\.[01] \d+ )", received)[1 : whole + 1]


class Doors:
    """Two servers, and what is the same of them."""

    def __init__(self, sites: dict[str, Site]) -> None:
        self.report = Report()
        self._sites = sites
        self._ids_ahead: set[bytes] = set()
        self._started = dt.datetime.now(dt.UTC).isoformat().encode()

    def run(self, count: int, seed: int) -> Report:
        for number in range(count):
            talk = conversation(random.Random(f"{seed}-{number}"))
            raw, aiohttp = (said(site.address, talk) for site in self._sites.values())
            self.report.conversations += 1
            self.report.statuses.update(status.decode() for status in heads_of(raw))
            if talk.last_cuts and b"Content-Encoding" in talk.last:
                # aiohttp hangs up if it refuses a compressed body before it is there.
                raw, aiohttp = (_CLOSE.sub(b"", received) for received in (raw, aiohttp))
            if raw != aiohttp and (is_ahead(raw, aiohttp) or is_refused(raw, aiohttp, talk)):
                self.report.ahead += 1
                self._ids_ahead |= set(_CLIENT_ID.findall(talk.last))
            elif raw != aiohttp:
                self.report.faults.append(
                    f"conversation {seed}-{number}: {len(talk.whole)} whole, then {talk.last[:600]}"
                    f" cut at {talk.last_cuts}\n  raw     {raw!r}\n  aiohttp {aiohttp!r}"
                )
        self._compare_stored()
        return self.report

    def _compare_stored(self) -> None:
        """Compare what is stored, once all of it is."""
        deadline = time.monotonic() + STORED_TIMEOUT_S
        while True:
            raw, aiohttp = (self._stored(site) for site in self._sites.values())
            only = {
                "raw": [line for line in raw - aiohttp if not self._is_ahead(line)],
                "aiohttp": list(aiohttp - raw),
            }
            if raw and not any(only.values()):
                break
            if time.monotonic() > deadline:
                for name, lines in only.items():
                    self.report.faults += [f"only {name} stored {line!r}" for line in lines]
                break
            time.sleep(0.1)
        self.report.lines = raw.total()

    def _is_ahead(self, line: bytes) -> bool:
        return not self._ids_ahead.isdisjoint(_CLIENT_ID.findall(line))

    def _stored(self, site: Site) -> collections.Counter:
        lines = collections.Counter()
        for folder in ("events", "dead-letter"):
            for path in sorted((site.process.data_dir / folder).glob("**/*.ndjson")):
                lines.update(map(self._without_made, path.read_bytes().split(b"\n")[:-1]))
        return lines

    def _without_made(self, line: bytes) -> bytes:
        """Return a stored line without the ids and times that its server made."""
        line = _MADE_ID.sub(b"ID", line)
        return _TIME.sub(lambda found: b"NOW" if found[0] > self._started else found[0], line)


@contextlib.contextmanager
def both_doors(folder: Path):
    """Run a server with each front, on data directories of their own."""
    with contextlib.ExitStack() as stack:
        yield Doors(
            {
                front: stack.enter_context(
                    started_site(folder / front / "data", *SERVER_FLAGS, way=front)
                )
                for front in FRONTS
            }
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--conversations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, both_doors(Path(folder)) as doors:
        report = doors.run(arguments.conversations, arguments.seed)
    print(report)  # noqa: T201
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
