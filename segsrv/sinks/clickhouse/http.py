"""ClickHouse's HTTP interface: one statement a request."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import aiohttp

from segsrv.errors import SinkMisconfigured
from segsrv.sinks.clickhouse.answers import error_of
from segsrv.sinks.http_faults import connection_fault

CONNECTIONS_MAX = 2
"""One that is being used, and one that a call which was given up may still hold."""
KEEP_ALIVE_S = 2.0
"""Servers close idle connections after 3 s (as old ones do) or more."""
ANSWER_BYTES_MAX = 4 << 20
PIECE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is and who asks; `password` is in no `repr`."""

    host: str
    port: int
    has_tls: bool
    user: str
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.has_tls else 'http'}://{host}:{self.port}"


class Http:
    """Asks one server; belongs to the event loop that asks first."""

    def __init__(
        self, address: Address, *, connect_timeout_s: float, tls: ssl.SSLContext | None
    ) -> None:
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        statement: str,
        *,
        settings: Mapping[str, str] | None = None,
        body: bytes | None = None,
        encoding: str = "",
        may_reject: bool = False,
    ) -> bytes:
        """Return the answer to *statement*, which goes into the URL if there is a *body*.

        The server has finished when this returns: its answer waits for the statement's end.

        Raises:
            SegsrvError: As `clickhouse_answers.error_of` says; SinkUnavailable for the network.

        """
        query = {"wait_end_of_query": "1", **(settings or {})}
        headers = {"X-ClickHouse-User": self._address.user, "Content-Type": "text/plain"}
        if self._address.password:
            headers["X-ClickHouse-Key"] = self._address.password
        if body is None:
            body = statement.encode()
        else:
            query["query"] = statement
            if encoding:
                headers["Content-Encoding"] = encoding
        # With its length said beforehand, a server knows a body that was cut short.
        headers["Content-Length"] = str(len(body))
        try:
            async with self._connected().post(
                "/", params=query, headers=headers, data=_pieces(body), allow_redirects=False
            ) as answer:
                content = await _read(answer)
        except (aiohttp.ClientError, OSError) as error:
            raise connection_fault(error, connect_timeout_s=self._connect_timeout_s) from None
        if answer.status != 200:
            code = answer.headers.get("X-ClickHouse-Exception-Code", "")
            raise error_of(
                answer.status,
                int(code) if code.isdigit() else 0,
                content.decode(errors="replace"),
                may_reject=may_reject,
            )
        return content

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                self._address.url,
                connector=aiohttp.TCPConnector(
                    limit=CONNECTIONS_MAX,
                    keepalive_timeout=KEEP_ALIVE_S,
                    ssl=True if self._tls is None else self._tls,
                ),
                # Delivery limits the whole call.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


async def _pieces(body: bytes) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    content = b""
    async for piece in answer.content.iter_chunked(PIECE_BYTES):
        content += piece
        if len(content) > ANSWER_BYTES_MAX:
            raise SinkMisconfigured(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    return content
