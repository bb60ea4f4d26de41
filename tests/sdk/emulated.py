"""SDKs that can't run here, as the bytes that they send and their own reading of an answer.

Each was written down from the SDK's sources: its paths, headers, body and how it tells success,
a reason to give up and a reason to try again apart.
"""

import gzip
import itertools
import json
import socket
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

TIMEOUT_S = 30.0
CHUNK_BYTES = 97
DELIVERED, DROPPED, KEPT = "delivered", "dropped", "kept"
MOBILE_CALLS = ("track", "identify", "screen", "group", "alias")
ALL_CALLS = (*MOBILE_CALLS, "page")

_numbers = itertools.count(1)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection that sends exactly the bytes it is given."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def exchange(self, head: bytes, body: bytes) -> Answer:
        """Send a request and read its answer; the body waits for `100 Continue` if it is asked."""
        self._socket.sendall(head)
        if b"\r\nExpect: 100-continue\r\n" in head:
            status, _headers = self._read_head()
            if status != 100:
                raise AssertionError(f"{status} instead of 100 Continue")
        self._socket.sendall(body)
        status, headers = self._read_head()
        answer = Answer(status, headers, self._file.read(int(headers.get("content-length", "0"))))
        if b"\r\nConnection: close\r\n" in head and self._file.read(1):
            raise AssertionError("bytes behind the answer of a connection to be closed")
        return answer

    def _read_head(self) -> tuple[int, dict[str, str]]:
        version, status, _reason = self._file.readline().decode().split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {}
        while line := self._file.readline().decode().strip():
            name, _colon, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(status), headers


@dataclass(frozen=True)
class Emulated:
    """One SDK, or one way in which it can be set up.

    `paths` stand behind the configured base; requests take turns with them. `timestamp` and
    `sent_at` are in the SDK's own notation, `extra` is what it puts into each event.
    """

    name: str
    version: str
    paths: tuple[str, ...]
    headers: tuple[str, ...]
    envelope: Callable[[str, str, str], str]
    verdict: Callable[[int, bytes], str]
    user_agent: str = ""
    calls: tuple[str, ...] = MOBILE_CALLS
    timestamp: str = "2026-11-23T09:00:00.000Z"
    sent_at: str = "2026-11-23T09:00:01.000Z"
    user_id: str | int = "user-1"
    properties: Event = field(default_factory=dict)
    extra: Event = field(default_factory=dict)
    dumps: Callable[[Any], str] = lambda value: json.dumps(value, separators=(",", ":"))
    is_basic: bool = False
    is_gzip: bool = False
    is_chunked: bool = False
    is_at_root: bool = False

    @property
    def auth(self) -> str:
        return "Basic" if self.is_basic else "body writeKey"

    def event(self, event_type: str, **properties: Any) -> Event:
        """Make one call, with an id of its own."""
        event: Event = {
            "type": event_type,
            "messageId": f"{self.name.replace(' ', '-')}-{self.version}-{next(_numbers)}",
            "timestamp": self.timestamp,
            "anonymousId": "anon-1",
            "userId": self.user_id,
            "context": {"library": self.library},
            **self.extra,
        }
        if event_type == "track":
            return event | {"event": "Tea Bought", "properties": self.properties | properties}
        if event_type in ("page", "screen"):
            return event | {"name": "Home", "properties": {"tab": "tea"}}
        if event_type == "identify":
            return event | {"traits": {"email": "grüße@shop.example"}}
        if event_type == "group":
            return event | {"groupId": "company-1", "traits": {"employees": 42}}
        return event | {"previousId": "anon-0"}

    @property
    def library(self) -> Event:
        return {"name": self.user_agent.partition("/")[0] or "Analytics-CSharp", "version": "1"}

    def request(self, base: str, path: str, key: str, events: list[Event]) -> tuple[bytes, bytes]:
        """Return the head and the body, as they go over the wire, of one request."""
        text = self.envelope(self.dumps(events), self.sent_at, key)
        body = gzip.compress(text.encode()) if self.is_gzip else text.encode()
        lines = [f"POST {'' if self.is_at_root else base}{path} HTTP/1.1", "Host: shop.example"]
        lines += self.headers
        if self.user_agent:
            lines.append(f"User-Agent: {self.user_agent}")
        if self.is_basic:
            lines.append("Authorization: Basic " + b64encode(f"{key}:".encode()).decode())
        if self.is_gzip:
            lines.append("Content-Encoding: gzip")
        if self.is_chunked:
            lines.append("Transfer-Encoding: chunked")
            body = _chunks(body)
        else:
            lines.append(f"Content-Length: {len(body)}")
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode(), body


def _chunks(body: bytes) -> bytes:
    parts = [body[i : i + CHUNK_BYTES] for i in range(0, len(body), CHUNK_BYTES)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])


def _escaped_slashes(value: Any) -> str:
    """Write JSON as PHP and Apple's serializers do."""
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/")


def _in_utf8(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _key_last(batch: str, sent_at: str, key: str) -> str:
    return f'{{"batch":{batch},"sentAt":"{sent_at}","writeKey":"{key}"}}'


def _apple_file(batch: str, sent_at: str, key: str) -> str:
    return f'{{ "batch": [\n{batch[1:-1]}],"sentAt":"{sent_at}","writeKey":"{key}"}}'


def _sent_at_first(batch: str, sent_at: str, _key: str) -> str:
    return f'{{"sentAt":"{sent_at}","batch":{batch}}}'


def _without_key(batch: str, sent_at: str, _key: str) -> str:
    return f'{{"batch":{batch},"sentAt":"{sent_at}"}}'


def _ruby(status: int, body: bytes) -> str:
    """Ruby looks for `error` in the body of any answer, and resends if it can't."""
    try:
        answer = json.loads(body)
    except ValueError:
        return KEPT
    if not isinstance(answer, dict) or status >= 500 or status == 429:
        return KEPT
    return DELIVERED if status == 200 and answer.get("error") is None else DROPPED


def _php(status: int, _body: bytes) -> str:
    if status == 200:
        return DELIVERED
    # From 201 to 399 PHP resends for ever.
    return KEPT if status < 400 or status == 429 or status >= 500 else DROPPED


def _swift(status: int, _body: bytes) -> str:
    if status < 300:
        return DELIVERED
    return DROPPED if status == 400 else KEPT


def _drops_4xx(status: int, _body: bytes) -> str:
    if status < 300:
        return DELIVERED
    return DROPPED if 400 <= status < 500 and status != 429 else KEPT


def _react_native(status: int, _body: bytes) -> str:
    if 200 <= status < 300:
        return DELIVERED
    if 400 <= status < 500:
        return KEPT if status in (408, 410, 429, 460) else DROPPED
    return DROPPED if status in (501, 505) else KEPT


_RUBY_HEADERS = (
    "Accept-Encoding: gzip;q=1.0,deflate;q=0.6,identity;q=0.3",
    "Accept: application/json",
    "Content-Type: application/json",
)
_PHP = {
    "name": "PHP",
    "version": "3.8.2",
    "envelope": _without_key,
    "verdict": _php,
    "user_agent": "analytics-php/3.8.2",
    "calls": ALL_CALLS,
    "timestamp": "2026-11-23T09:00:00.000+00:00",
    "sent_at": "2026-11-23T09:00:01+00:00",
    "user_id": 42,
    # An empty PHP array is written as a list wherever an object is meant.
    "properties": {"url": "https://shop.example/", "options": []},
    "extra": {"integrations": []},
    "dumps": _escaped_slashes,
    "is_basic": True,
}
_REACT_NATIVE = {
    "name": "React Native",
    "version": "2.24.1",
    "headers": ("Content-Type: application/json; charset=utf-8", "Accept-Encoding: gzip"),
    "envelope": _key_last,
    "verdict": _react_native,
    "user_agent": "okhttp/4.12.0",
    "dumps": _in_utf8,
}

EMULATED = {
    "ruby": Emulated(
        "Ruby",
        "2.5.0",
        # Persistent connections; the path is the caller's to set.
        paths=("/v1/import",),
        headers=_RUBY_HEADERS,
        envelope=_sent_at_first,
        verdict=_ruby,
        user_agent="analytics-ruby/2.5.0",
        calls=ALL_CALLS,
        timestamp="2026-11-23T01:00:00.000-08:00",
        sent_at="2026-11-23T01:00:01.000-08:00",
        user_id=42,
        extra={"options": None, "integrations": {}},
        dumps=_in_utf8,
        is_basic=True,
    ),
    "php-curl": Emulated(
        **_PHP,
        paths=("/v1/batch",),
        headers=("Accept: */*", "Content-Type: application/json", "Expect: 100-continue"),
    ),
    "php-curl-gzip": Emulated(
        **_PHP,
        paths=("/v1/batch",),
        headers=("Accept: */*", "Content-Type: application/json"),
        is_gzip=True,
    ),
    "php-socket": Emulated(
        **_PHP,
        # This consumer takes a host only, so its path is fixed.
        paths=("/v1/batch",),
        headers=("Content-Type: application/json",),
        is_at_root=True,
    ),
    "swift": Emulated(
        "Swift",
        "1.10.0",
        paths=("/v1/b", "/b"),
        headers=("Content-Type: application/json; charset=utf-8", "Accept-Encoding: gzip"),
        envelope=_apple_file,
        verdict=_swift,
        user_agent="analytics-ios/1.10.0",
        properties={"url": "https://shop.example/"},
        dumps=_escaped_slashes,
    ),
    "csharp": Emulated(
        "C#",
        "2.6.0",
        paths=("/v1/b", "/b"),
        # Neither Content-Type nor User-Agent.
        headers=("Accept: text/plain", "Connection: close"),
        envelope=_key_last,
        verdict=_drops_4xx,
        calls=ALL_CALLS,
        timestamp="2026-11-23T09:00:00.1234567Z",
        sent_at="2026-11-23T09:00:01.7654321Z",
        dumps=_in_utf8,
        is_gzip=True,
    ),
    "ios": Emulated(
        "iOS",
        "4.1.8",
        paths=("/v1/batch", "/batch"),
        headers=("Content-Type: application/json", "Accept-Encoding: gzip"),
        envelope=_key_last,
        verdict=_drops_4xx,
        user_agent="analytics-ios/4.1.8",
        properties={"url": "https://shop.example/"},
        dumps=_escaped_slashes,
        is_gzip=True,
    ),
    "android": Emulated(
        "Android",
        "4.11.0",
        # An apiHost that ends with a slash doubles it.
        paths=("/v1/import", "/v1//import", "/v1/import/"),
        headers=("Content-Type: application/json",),
        envelope=_key_last,
        verdict=_drops_4xx,
        user_agent="analytics-android/4.11.0",
        timestamp="2026-11-23T09:00:00.123456789Z",
        extra={"channel": "mobile"},
        dumps=_in_utf8,
        is_gzip=True,
        is_chunked=True,
    ),
    # Its `proxy` is either the whole URL, or what `/b` is put behind.
    "react-native-proxy": Emulated(**_REACT_NATIVE, paths=("", "/")),
    "react-native-endpoints": Emulated(**_REACT_NATIVE, paths=("/v1/b", "/v1//b", "//b")),
}

SETTINGS_PATHS = {
    "Swift": ("/v1/projects/{key}/settings", "/projects/{key}/settings"),
    "C#": ("/v1/projects/{key}/settings", "/projects/{key}/settings"),
    "iOS": ("/v1/projects/{key}/settings",),
    "Android": ("/v1/projects/{key}/settings",),
    "React Native": ("/v1/projects/{key}/settings", "/projects/{key}/settings"),
}
