"""Counts every answer, and logs refusals: the first of a kind, then at most one a minute.

A kind is a code, a kind of path and the id of a configured key, so there are only as many as the
program and its settings name: clients can neither fill the log nor the memory with more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Hashable

from aiohttp import web

from segsrv.errors import SegsrvError
from segsrv.events.counters import OK, Counters, PathKind
from segsrv.events.privacy import shorten_addresses
from segsrv.http.answers import Refusal
from segsrv.http.auth import Keyring
from segsrv.http.client_address import ClientAddress
from segsrv.settings import Settings

logger = logging.getLogger(__name__)

LINE_INTERVAL_S = 60.0
TEXT_CHARS_MAX = 300
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Seldom:
    """Says when a line is due about something that clients can repeat as often as they like."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[Hashable, tuple[float, int]] = {}

    def due(self, kind: Hashable) -> int:
        """Count one of *kind*; return how many came since its last line, 0 while none is due.

        Kinds are kept for good, so there must be a bounded number of them.
        """
        now_s = self._clock()
        next_s, count = self._waiting.get(kind, (now_s, 0))
        if now_s < next_s:
            self._waiting[kind] = (next_s, count + 1)
            return 0
        self._waiting[kind] = (now_s + LINE_INTERVAL_S, 0)
        return count + 1


class Tally:
    """What was answered to whom: `counters.answers`, and a line in the log now and then."""

    def __init__(
        self,
        settings: Settings,
        keyring: Keyring,
        client_address: ClientAddress,
        counters: Counters,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = counters
        self._keyring = keyring
        self._client_address = client_address
        self._seldom = Seldom(clock)
        self._keeps_addresses = settings.ip_policy == "keep"
        self._ids_by_secret = {key.secret: key.id for key in settings.all_keys()}
        self._secret_lengths = sorted({len(secret) for secret in self._ids_by_secret}, reverse=True)

    def counted(self, kind: PathKind, handler: Handler) -> Handler:
        """Return *handler* so that its answers are counted; a key of theirs is in the path."""

        async def counted(request: web.Request) -> web.StreamResponse:
            answer = await handler(request)
            in_path = request.match_info.get("key")
            key = self._keyring.find(in_path) if in_path is not None else None
            key_id = "" if key is None else key.id
            if isinstance(answer, Refusal):
                self.refused(answer, kind, key_id, request)
            else:
                self.counters.answers[OK, answer.status, kind, key_id] += 1
            return answer

        return counted

    def refused(
        self, fault: SegsrvError | Refusal, kind: PathKind, key_id: str, sender: web.Request | str
    ) -> None:
        """Count the answer to *fault* (or that answer), and log it if a line is due.

        *sender* is an address where nothing of a request could be read.
        """
        self.counters.answers[fault.code, fault.status, kind, key_id] += 1
        count = self._seldom.due((fault.code, kind, key_id))
        if count:
            text = self.without_secrets(fault.log_text)[:TEXT_CHARS_MAX]
            logger.warning(
                "refused status=%d code=%s path=%s key=%s peer=%s count=%d: %s",
                *(fault.status, fault.code, kind, key_id, self._peer(sender), count, text),
            )

    def _peer(self, sender: web.Request | str) -> str:
        """Return the client's address, shortened where the server or the request asks for that."""
        keeps = self._keeps_addresses
        if isinstance(sender, str):
            address = sender
        else:
            address = self._client_address.of(sender)
            keeps = keeps and sender.query.get("ip_policy", "keep") == "keep"
        return address if keeps else shorten_addresses(address)

    def without_secrets(self, text: str) -> str:
        """Put a key's id where its secret stands: a path, for one, is the client's own text.

        Each place is looked up by a hash, so this takes as long for a thousand keys as for one.
        """
        for length in self._secret_lengths:
            start = 0
            while start + length <= len(text):
                key_id = self._ids_by_secret.get(text[start : start + length])
                if key_id is None:
                    start += 1
                    continue
                shown = f"[key {key_id}]"
                text = text[:start] + shown + text[start + length :]
                start += len(shown)
        return text


TALLY = web.AppKey("segsrv_tally", Tally)
"""Where an application keeps its own, for the server that runs it."""
