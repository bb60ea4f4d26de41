"""Says what is to be done with a request, from the bytes of its head.

llhttp, which aiohttp reads heads with too, reads a head once. The same head with another length is
found again by a digest of its bytes without the digits of `Content-Length`, and of the sender's
address; one that says the same in other bytes, by a digest of the lines that matter. What a head
says changes only with the keys, and then all entries are forgotten; trusted proxies and policies
are settings, and those are read once.

Only a plain head is read here: one that no two readers of HTTP could read differently. Whatever is
odd about another one, it is for aiohttp, which sees all of its bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from multidict import CIMultiDict, istr

from segsrv.http.caller import Caller
from segsrv.http.front.familiar import Familiar
from segsrv.http.paths import Target, normalised
from segsrv.http.request import Request

POST = b"POST "
HEAD_BYTES_MAX = 8_000
"""Below aiohttp's limit for a single line, so that a head with a longer one is aiohttp's."""
HEADERS_MAX = 100
ENTRIES_MAX = 8_192
CACHED_BYTES_MAX = 16 << 20
ENTRY_BYTES = 1_500
"""What an entry takes beside the texts of its head, about."""
DIGEST_BYTES = 16
NAMES_CACHED_MAX = 512
NAME_BYTES_CACHED_MAX = 64

# Exactly as nearly all clients write it: in another form it is found when the head is read, and
# such a head is aiohttp's. Ten digits fit any reader's integer.
_find_length = re.compile(rb"\r\ncontent-length: ([0-9]{1,10})\r\n", re.IGNORECASE).search
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Each says something of how the body is framed or what happens to the connection.
_ODD = frozenset(
    {
        "expect",
        "keep-alive",
        "proxy-connection",
        "sec-websocket-key1",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# aiohttp refuses a request that has one of them twice; of the others all lines are seen.
_ONCE = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-location",
        "content-range",
        "content-type",
        "etag",
        "host",
        "max-forwards",
        "server",
        "user-agent",
    }
)
_NOTABLE = _ODD | _ONCE


class Visit:
    """A plain request that is none of this door's: aiohttp answers it, and that is all.

    Where nothing is known against it, its body is waited for first, and counted as others are.
    """

    __slots__ = ("is_welcome",)

    def __init__(self, *, is_welcome: bool) -> None:
        self.is_welcome = is_welcome


VISIT: Final = Visit(is_welcome=False)
WELCOME_VISIT: Final = Visit(is_welcome=True)
CONTENT_LENGTH = istr("Content-Length")
CONTENT_ENCODING = istr("Content-Encoding")


class Heads:
    """Knows what the latest heads said, in bounded memory, by digests that reveal nothing of them.

    *targets* are those of exact paths; *find_caller* is `Ingest.caller`, and *move_caller*
    `Ingest.caller_at`, which looks for the client's address in the header *forwarded_name*.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        find_caller: Callable[[Request, Target], Caller],
        move_caller: Callable[[Caller, str, str], Caller],
        *,
        forwarded_name: str,
        body_bytes_max: int,
    ) -> None:
        self._targets = {path: target for path, target in targets.items() if "{" not in path}
        self._find_caller = find_caller
        self._move_caller = move_caller
        self._familiar = Familiar(forwarded_name, _ODD)
        self._body_bytes_max = body_bytes_max
        # With a key of this process, nobody can make two heads that have the same digest.
        self._hasher = blake2b(key=os.urandom(32), digest_size=DIGEST_BYTES)
        # The key's block is hashed as soon as a byte follows: here, and not for each head.
        self._hasher.update(b"\n")
        self._essence_hasher = blake2b(key=os.urandom(32), digest_size=DIGEST_BYTES)
        # Entries that are used stay: the older half is forgotten when the newer one is full.
        self._newer: dict[bytes, Caller | Visit] = {}
        self._older: dict[bytes, Caller | Visit] = {}
        self._newer_bytes = 0

    def forget(self) -> None:
        """Forget what heads said: keys have changed, and with them who sends."""
        self._newer, self._older, self._newer_bytes = {}, {}, 0

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def find(
        self, peer: bytes, data: bytes, start: int, end: int
    ) -> tuple[Caller | Visit, int] | None:
        """Return who sends, and the bytes of the body; None if the head is not plain.

        The head is *data* from *start* to *end*, where its empty line begins. *peer* is the address
        that the connection comes from.
        """
        found = _find_length(data, start, end + 2)
        if found is None:
            # It has no body, or a length in an unusual form.
            head = read_head(data[start : end + 4], "")
            return None if head is None or CONTENT_LENGTH in head.headers else (VISIT, 0)
        digits_start, digits_end = found.span(1)
        body_bytes = int(data[digits_start:digits_end])
        if body_bytes > self._body_bytes_max:
            return None
        hasher = self._hasher.copy()
        hasher.update(b"%b\n%b%b" % (peer, data[start:digits_start], data[digits_end:end]))
        digest = hasher.digest()
        caller = self._newer.get(digest)
        if caller is None:
            caller = self._older.pop(digest, None) or self._read(peer, data[start : end + 4])
            if caller is None:
                return None
            self._keep(digest, caller, end - start)
        return caller, body_bytes

    def _keep(self, digest: bytes, caller: Caller | Visit, head_bytes: int) -> None:
        self._newer[digest] = caller
        self._newer_bytes += head_bytes + ENTRY_BYTES
        if len(self._newer) >= ENTRIES_MAX // 2 or self._newer_bytes >= CACHED_BYTES_MAX // 2:
            self._older, self._newer, self._newer_bytes = self._newer, {}, 0

    def _read(self, peer: bytes, head: bytes) -> Caller | Visit | None:
        """Read a head that is new, by what is known of one that says the same where that can be."""
        peer_text = peer.decode("utf-8", "surrogateescape")
        found = self._familiar.essence(head) if len(head) <= HEAD_BYTES_MAX else None
        if found is None:
            caller = self._read_all(peer_text, head)
            if caller is not None:
                self._familiar.learn(head)
            return caller
        essence, forwarded = found
        hasher = self._essence_hasher.copy()
        hasher.update(essence)
        digest = hasher.digest()
        like = self._newer.get(digest)
        if like is None:
            like = self._older.pop(digest, None) or self._read_all(peer_text, head)
            if not isinstance(like, Caller):
                return like
            self._keep(digest, like, len(essence))
        if not isinstance(like, Caller):
            return like
        return self._move_caller(like, peer_text, forwarded.decode("ascii"))

    def _read_all(self, peer: str, head: bytes) -> Caller | Visit | None:
        request = read_head(head, peer)
        if request is None:
            return None
        exact = self._targets.get(request.path)
        target = exact or self._targets.get(normalised(request.path))
        if target is None or request.method != "POST":
            return VISIT
        caller = self._find_caller(request, target)
        if caller.fault is not None:
            # It is refused, counted and logged by aiohttp's side, before its body is there.
            return VISIT
        if exact is None or CONTENT_ENCODING in request.headers:
            return WELCOME_VISIT
        return caller


class _Lines:
    """What llhttp tells of a head."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def read_head(head: bytes, peer: str) -> Request | None:
    """Return the request that a whole *head* begins, with its empty line; None unless it is plain.

    A plain one is of HTTP/1.1, keeps its connection, has a body of a stated length or none, names a
    path without escapes, and its lines end as they should.
    """
    lines = head.count(b"\n")
    if (
        len(head) > HEAD_BYTES_MAX
        or head.count(b"\r\n") != lines
        or head.count(b"\r") != lines
        or _CONTROL.search(head) is not None
    ):
        return None
    read = _Lines()
    parser = HttpRequestParser(read)
    try:
        parser.feed_data(head)
    except (HttpParserError, HttpParserUpgrade):
        return None
    # Below the request line each line is a header of its own, but for the empty one.
    if (
        parser.get_http_version() != "1.1"
        or len(read.headers) != lines - 2
        or len(read.headers) > HEADERS_MAX
        or not _is_plain_target(read.target)
    ):
        return None
    headers = _plain_headers(read.headers)
    if headers is None:
        return None
    path, _mark, query = read.target.decode("ascii").partition("?")
    return Request(parser.get_method().decode("ascii"), path, query, headers, peer)


def _plain_headers(lines: list[tuple[bytes, bytes]]) -> CIMultiDict[str] | None:
    headers: list[tuple[str, str]] = []
    once = set()
    for raw_name, raw_value in lines:
        is_short = len(raw_name) <= NAME_BYTES_CACHED_MAX
        name, lower = _cached_name(raw_name) if is_short else _name(raw_name)
        # llhttp leaves the blanks behind a value.
        value = raw_value.rstrip(b" \t").decode("utf-8", "surrogateescape")
        if lower in _NOTABLE:
            if lower in _ODD or lower in once:
                return None
            if lower == "connection" and value.lower() != "keep-alive":
                return None
            once.add(lower)
        headers.append((name, value))
    return CIMultiDict(headers) if "host" in once else None


def _name(raw: bytes) -> tuple[str, str]:
    """Return a header's name as multidict finds it fastest, and in lower case."""
    name = raw.decode("ascii", "replace")
    return istr(name), name.lower()


_cached_name = lru_cache(NAMES_CACHED_MAX)(_name)


def _is_plain_target(target: bytes) -> bool:
    """Say whether the path stands there as it is meant: in full, no escapes, no fragment."""
    path = target.partition(b"?")[0]
    return path.startswith(b"/") and target.isascii() and b"%" not in path and b"#" not in target
