"""Posts batches to a URL, each as one request: at least once, under an id that stays the same."""

from __future__ import annotations

import asyncio
import contextlib
import io
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from segsrv.errors import SegsrvError, SinkMisconfigured
from segsrv.sinks.base import Batch, Placement
from segsrv.sinks.http_faults import connection_fault
from segsrv.sinks.webhook import answers
from segsrv.sinks.webhook.options import WebhookOptions
from segsrv.sinks.webhook.request import CONTENT_TYPES, BodyEncoding, prepare

KEEPALIVE_S = 4.0
"""Node.js and uvicorn close a connection that was silent for 5 s; a request sent then is lost."""
WHOLE_BYTES_MAX = 1 << 20
"""A larger body is written in pieces, between which the loop serves others."""
ANSWER_BYTES_MAX = 16 << 10
ANSWER_S_MAX = 1.0
"""The status decides, so what follows it is hardly waited for."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the receiver knows the sender by; `secrets` are texts that no message may hold."""

    headers: Mapping[str, str] = field(repr=False)
    signing_keys: tuple[bytes, ...] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(slots=True)
class WebhookStats:
    """Plain counters; bytes as they were sent."""

    requests: int = 0
    body_bytes: int = 0
    retry_after_answers: int = 0


class WebhookSink:
    """Sends each batch as one request, whose answer's status says what became of it.

    A request without an answer may have been taken, and is sent again under the same id.
    """

    def __init__(
        self, url: URL, options: WebhookOptions, access: Access, *, encoding: BodyEncoding
    ) -> None:
        self.stats = WebhookStats()
        self._url = url
        self._options = options
        self._access = access
        self._encoding = encoding
        self._shown = answers.origin(url)
        self._redactor = answers.Redactor(access.secrets)
        self._session: aiohttp.ClientSession | None = None
        # One thread: what a call that was given up left there is over before the next one begins.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segsrv-webhook")

    async def check(self) -> None:
        """Connect, and ask what `check_method` says; no event is sent.

        Raises:
            SinkUnavailable: The receiver can't be reached, or says that it takes nothing now.
            SinkMisconfigured: It is not trusted, or it refuses the request.

        """
        trust = await self._trust()
        method = self._options.check_method
        if method == "none":
            await self._connect(trust)
            return
        async with (
            self._new_session(trust) as session,
            self._asked(session, method, {}, None) as answer,
        ):
            await self._judge(answer, answers.check_fault)

    async def open(self) -> None:
        await self._close_session()
        await self.check()
        self._session = self._new_session(await self._trust())

    async def plan(self, _batch: Batch, _last: Placement) -> Placement:
        return {}

    async def send(self, batch: Batch, _placement: Placement) -> None:
        session = self._session
        assert session is not None, "opened before the first batch"
        options = self._options
        request = await self._in_thread(
            partial(prepare, batch, self._encoding, options.compress, self._access.signing_keys)
        )
        size = len(request.body)
        data = request.body if size <= WHOLE_BYTES_MAX else io.BytesIO(request.body)
        self.stats.requests += 1
        self.stats.body_bytes += size
        async with self._asked(session, options.method, request.headers, data) as answer:
            await self._judge(answer, answers.fault)

    async def close(self) -> None:
        await self._close_session()
        self._thread.shutdown(wait=False)

    def describe(self) -> str:
        # Many services have a secret in the path.
        return self._shown if self._url.path == "/" else f"{self._shown}/…"

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _new_session(self, trust: ssl.SSLContext | None) -> aiohttp.ClientSession:
        headers = CIMultiDict(
            {"Content-Type": CONTENT_TYPES[self._encoding], "Accept-Encoding": "identity"}
        )
        headers.update(self._access.headers)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=1, ssl=True if trust is None else trust, keepalive_timeout=KEEPALIVE_S
            ),
            # How long it may take in all is delivery's to say.
            timeout=aiohttp.ClientTimeout(total=None, connect=self._options.connect_timeout_s),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def _trust(self) -> ssl.SSLContext | None:
        """Return whom to trust, as `ca_file` says now; None where there is no TLS."""
        if self._url.scheme != "https":
            return None
        path = self._options.ca_file
        try:
            return await self._in_thread(partial(ssl.create_default_context, cafile=path))
        except ssl.SSLError:
            raise SinkMisconfigured(f"ca_file={path}: holds no certificate") from None
        except OSError as error:
            raise SinkMisconfigured(f"ca_file={path}: can't be read: {error.strerror}") from error

    async def _connect(self, trust: ssl.SSLContext | None) -> None:
        """Resolve the name, connect and agree on TLS, and let go of that."""
        host, port = self._url.host, self._url.port
        with self._faults():
            async with asyncio.timeout(self._options.connect_timeout_s):
                _reader, writer = await asyncio.open_connection(host, port, ssl=trust)
        writer.transport.abort()

    @contextlib.asynccontextmanager
    async def _asked(
        self,
        session: aiohttp.ClientSession,
        method: str,
        headers: Mapping[str, str],
        data: bytes | io.BytesIO | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make one request, and let go of its answer in the end."""
        with self._faults():
            answer = await session.request(
                method, self._url, headers=headers, data=data, allow_redirects=False
            )
        async with answer:
            yield answer

    async def _judge(
        self, answer: aiohttp.ClientResponse, meaning: Callable[..., SegsrvError | None]
    ) -> None:
        """Raise what an answer means, if it is no success."""
        body = await _body_of(answer)
        headers = answer.headers
        text = ""
        if "Content-Encoding" not in headers:
            text = self._redactor.line(headers.get("Content-Type", ""), body)
        retry_after = headers.get("Retry-After", "")
        self.stats.retry_after_answers += bool(retry_after)
        fault = meaning(
            self._shown,
            answer.status,
            text,
            location=headers.get("Location", ""),
            retry_after=retry_after,
        )
        if fault is not None:
            raise fault

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Say of a connection that can't be made, or broke, what that means."""
        try:
            yield
        except (aiohttp.ClientError, OSError) as error:
            # Not chained: some of these errors hold the whole URL.
            limit_s = self._options.connect_timeout_s
            head = f"{self._shown}: "
            raise connection_fault(error, connect_timeout_s=limit_s, head=head) from None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def _body_of(answer: aiohttp.ClientResponse) -> bytes:
    """Return the beginning of an answer's body.

    All of it if it is short and comes soon, so that the connection can be used again.
    """
    body = bytearray()
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(ANSWER_S_MAX):
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > ANSWER_BYTES_MAX:
                    break
    return bytes(body[:ANSWER_BYTES_MAX])
