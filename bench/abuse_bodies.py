"""Bodies that cost a server as much as they can: known ones, and a grammar to find worse ones."""

from __future__ import annotations

import gzip
import random
import sys
import zlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace

import brotli
import payloads

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BODY_BYTES_MAX = 4 << 20
"""What the server takes by default, after decompression."""
BATCH_EVENTS = 2_500
SHARED_BYTES_MAX = 4 << 20
"""What the events of a batch may share by default, times their number."""
PATHS = ("/api/v1/segment", "/api/v1/segment/compat?ip_policy=strict&cookie_policy=comply")
KEYS = ("none", "wrong", "header", "body")
ENCODINGS = ("identity", "gzip", "deflate", "br", "zstd", "gzip members")
CHUNKS = (0, 0, 0, 1, 16)
CHUNKS_MAX = 300_000
SIZES = (16_000, 60_000, 250_000, 1 << 20, BODY_BYTES_MAX)
AGENT_WORDS = (
    "Mozilla/5.0 Windows NT Linux Android iPhone AppleWebKit Chrome/91.0 Safari HTC Silk Build/"
    " Version/4.0 SAMSUNG Nokia Opera Kindle CFNetwork Darwin Mobile Googlebot facebook Xiaomi"
).split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One request: what its body is made of, and how it is sent.

    `size` bounds the decompressed body, `shared_bytes` what the events of a batch share.
    `chunk_bytes` is the size of a chunk, 0 for none.
    """

    unit: str
    frame: str
    tail: str = ""
    size: int = BODY_BYTES_MAX
    shared_bytes: int = SHARED_BYTES_MAX // BATCH_EVENTS - 40
    encoding: str = "identity"
    chunk_bytes: int = 0
    key: str = "none"
    path: str = PATHS[0]
    name: str = ""

    def __str__(self) -> str:
        if self.name:
            return self.name
        parts = [f"{self.frame} of {self.unit}", self.tail, f"{self.size >> 10} KiB", self.encoding]
        if self.chunk_bytes:
            parts.append(f"chunks of {self.chunk_bytes}")
        if self.path != PATHS[0]:
            parts.append("strict compat")
        return ", ".join(part for part in parts if part)


Unit = Callable[[int], bytes]


def _always(text: bytes) -> Unit:
    return lambda _index: text


def _agent(length: int, index: int) -> bytes:
    rng = random.Random(index)
    words = " ".join(rng.choice(AGENT_WORDS) for _ in range(length // 6))
    return words[:length].encode()


UNITS: dict[str, Unit] = {
    "objects": _always(b'{"a":{}}'),
    "empty objects": _always(b"{}"),
    "arrays": _always(b"[0]"),
    "empty arrays": _always(b"[]"),
    "deep arrays": _always(b"[" * 200 + b"]" * 200),
    "zeros": _always(b"0"),
    "exponents": _always(b"1e100"),
    "floats": _always(b"0.12345678901234567"),
    "long numbers": lambda index: b"%d" % (10**18 + index),
    "NaNs": _always(b"NaN"),
    "empty texts": _always(b'""'),
    "texts of commas": _always(b'","'),
    "escapes": _always(rb'"\n\n\n\n"'),
    "escaped letters": _always(rb'"\u0061\u0077\u0065"'),
    "escaped keys": lambda index: rb'{"\u0077riteKe\u0079":"%d"}' % index,
    "half escapes": _always(b'"' + rb"\u007" * 400 + b'"'),
    "lone surrogates": _always(rb'"\ud800"'),
    "backslashes": _always(b'"' + rb"\\" * 400 + b'"'),
    "long texts": _always(b'"' + b"a" * 5_000 + b'"'),
    "wide texts": _always('"\U0001f600é"'.encode()),
    "keys": lambda index: b'{"writeKey":"%d"}' % index,
    "long keys": lambda index: b'{"writeKey":"%d%s"}' % (index, b"k" * 1_500),
    "half keys": _always(b'"writeKe"'),
    "names": lambda index: b'{"k%d":0}' % index,
    "tracks": _always(b'{"type":"track"}'),
    "zones": lambda index: b'{"context":{"timezone":"Europe/X%d"}}' % index,
    "agents": lambda index: b'{"context":{"userAgent":"%d %s"}}' % (index, _agent(500, index)),
    "long agents": lambda index: (
        b'{"context":{"userAgent":"%d %s"}}' % (index, _agent(2_000, index))
    ),
    "addresses": lambda index: (
        b'{"context":{"ip":"%s"}}'
        % b",".join(b"2001:db8::%x" % (8 * index + hop) for hop in range(8))
    ),
    "ids": lambda index: b'{"messageId":{"a":[%d]},"anonymousId":[[0]],"userId":{}}' % index,
    "pages": _always(
        b'{"context":{"page":{"title":1},"campaign":{"name":2},"traits":{},"os":{"name":"a"},'
        b'"device":{"id":0},"screen":{"width":1,"height":2}},"properties":{"a":0}}'
    ),
}
FRAMES = ("array", "field", "batch", "context", "integrations", "sentAt", "names")
TAILS = ("", "NaN", "broken")


def body_of(attack: Attack, write_key: str) -> bytes:
    """Return the body before it is compressed; at most `attack.size` bytes."""
    if attack.unit == "honest":
        rng = random.Random(0)
        clients = payloads.make_clients(rng)
        return payloads.server_batch(rng, clients, events=BATCH_EVENTS, write_key=write_key)
    named = {"body": write_key, "wrong": "not-the-key"}.get(attack.key)
    head = b'"writeKey":"%s",' % named.encode() if named else b""
    tail = {"": b"0", "NaN": b"NaN", "broken": b"oops"}[attack.tail]
    room = attack.size - len(head) - 200
    if attack.frame == "array":
        return b"[" + _filled(attack.unit, room) + b"," + tail + b"]"
    if attack.frame == "field":
        return b"{%s" % head + b'"a":[' + _filled(attack.unit, room) + b'],"z":' + tail + b"}"
    if attack.frame == "batch":
        events = _filled(attack.unit, room, BATCH_EVENTS)
        return b"{%s" % head + b'"batch":[' + events + b'],"z":' + tail + b"}"
    if attack.frame == "names":
        names = b",".join(b'"k%d":0' % index for index in range(min(room // 12, 200_000)))
        return b"{%s" % head + b'"properties":{' + names + b'},"z":' + tail + b"}"
    shared_room = min(room // 4, attack.shared_bytes)
    shared = b'{"a":[%s]}' % _filled(attack.unit, shared_room)
    if attack.frame == "context":
        names = b",".join(b'"k%d":0' % index for index in range(shared_room // 20))
        shared = b'{"page":{},"traits":{},%s,"a":[%s]}' % (
            names,
            _filled(attack.unit, shared_room // 3),
        )
        shared = shared.replace(b",]", b"]")
    events = _filled("tracks", room - len(shared), BATCH_EVENTS)
    name = attack.frame.encode()
    return b'{%s"%s":%s,"batch":[%s],"z":%s}' % (head, name, shared, events, tail)


def _filled(unit: str, room: int, count_max: int = 1 << 30) -> bytes:
    """Repeat *unit* with commas between, to *room* bytes and *count_max* times at most."""
    make = UNITS[unit]
    first = make(0)
    if make(1) == first:
        count = min(count_max, (room + 1) // (len(first) + 1))
        return b",".join([first] * count)
    parts: list[bytes] = []
    for index in range(count_max):
        part = make(index)
        room -= len(part) + 1
        if room < 0:
            break
        parts.append(part)
    return b",".join(parts)


def request_of(attack: Attack, write_key: str) -> bytes:
    """Return the whole request, which the server keeps the connection for."""
    body = compressed(body_of(attack, write_key), attack.encoding)
    lines = [f"POST {attack.path} HTTP/1.1", "Host: 127.0.0.1"]
    if attack.key == "header":
        lines.append("Authorization: Basic " + b64encode(f"{write_key}:".encode()).decode())
    if attack.encoding != "identity":
        lines.append(f"Content-Encoding: {attack.encoding.partition(' ')[0]}")
    if attack.chunk_bytes:
        lines.append("Transfer-Encoding: chunked")
        # So many chunks at the most, for the sake of who sends them.
        size = max(attack.chunk_bytes, len(body) // CHUNKS_MAX)
        body = b"".join(
            b"%x\r\n%s\r\n" % (len(part), part)
            for part in (body[start : start + size] for start in range(0, len(body), size))
        )
        body += b"0\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def compressed(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.compress(body, 9, mtime=0)
    if encoding == "gzip members":
        size = max(len(body) // 200, 1)
        return b"".join(
            gzip.compress(body[start : start + size], 9, mtime=0)
            for start in range(0, len(body), size)
        )
    if encoding == "deflate":
        return zlib.compress(body, 9)
    if encoding == "br":
        compressed_body: bytes = brotli.compress(body, quality=5)
        return compressed_body
    if encoding == "zstd":
        return zstd.compress(body)
    return body


KNOWN = (
    Attack(
        name="1 MiB of NaN and [0], gzip",
        unit="arrays",
        frame="field",
        tail="NaN",
        size=1 << 20,
        encoding="gzip",
    ),
    Attack(name="4 MiB of objects, gzip", unit="objects", frame="field", encoding="gzip"),
    Attack(
        name="a context of 6.6 KB for 2,500 events, gzip",
        shared_bytes=6_600,
        unit="zeros",
        frame="context",
        encoding="gzip",
        key="header",
    ),
    Attack(
        name="2,500 honest events, gzip",
        unit="honest",
        frame="batch",
        encoding="gzip",
        key="header",
    ),
)
"""What stalled a server of this kind for seconds, once."""


def random_attack(rng: random.Random, *, has_key: bool) -> Attack:
    return Attack(
        unit=rng.choice([*UNITS]),
        frame=rng.choice(FRAMES),
        tail=rng.choice(TAILS),
        size=rng.choice(SIZES),
        encoding=rng.choice(ENCODINGS),
        chunk_bytes=rng.choice(CHUNKS),
        key=rng.choice(KEYS[2:] if has_key else KEYS[:2]),
        path=rng.choice(PATHS),
    )


def changed(attack: Attack, rng: random.Random, *, has_key: bool) -> Attack:
    """Return *attack* with one or two of its properties made anew."""
    other = random_attack(rng, has_key=has_key)
    names = ("unit", "frame", "tail", "size", "encoding", "chunk_bytes", "key", "path")
    picked = rng.sample(names, rng.choice((1, 1, 2)))
    return replace(attack, name="", **{name: getattr(other, name) for name in picked})
