"""Counts every answer, and logs refusals: the first of a kind, then at most one a minute.

A kind is a code, a kind of path and the id of a configured key, so there are only as many as the
program and its settings name: clients can neither fill the log nor the memory with more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

from aiohttp import web

from segsrv.events.counters import Counters, PathKind
from segsrv.events.privacy import shorten_addresses
from segsrv.http.refusals import Refusals, excerpt_of
from segsrv.settings import Key, Settings

logger = logging.getLogger(__name__)

LINE_INTERVAL_S = 60.0
TEXT_CHARS_MAX = 300


class Fault(Protocol):
    """What is told of an error: the error itself, or an answer to one."""

    code: str
    log_text: str

    @property
    def status(self) -> int: ...


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
    """What was answered to whom: `counters.answers`, and a line in the log now and then.

    `refusals` has the latest refused ones.
    """

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = counters
        self.refusals = Refusals(clock)
        self._seldom = Seldom(clock)
        self._keeps_addresses = settings.ip_policy == "keep"
        self.use(settings.all_keys())

    def use(self, keys: Iterable[Key]) -> None:
        """Take the secrets of *keys* out of texts from now on."""
        self._ids_by_secret = {secret: key.id for key in keys for secret in key.secrets}
        self._secret_lengths = sorted({len(secret) for secret in self._ids_by_secret}, reverse=True)

    def refused(
        self,
        fault: Fault,
        kind: PathKind,
        key_id: str,
        address: str,
        *,
        keeps_address: bool = True,
        body: bytes = b"",
    ) -> None:
        """Count the answer to *fault*, and log it if a line is due.

        The client's *address* is shortened where the server or its request asks for that. What is
        known of *body* is kept for those who watch.
        """
        self.counters.answers[fault.code, fault.status, kind, key_id] += 1
        keeps_address = keeps_address and self._keeps_addresses
        if self.refusals.is_due():
            self.refusals.add(
                status=fault.status,
                code=fault.code,
                path=kind,
                key=key_id,
                message=self.without_secrets(fault.log_text)[:TEXT_CHARS_MAX],
                # A body may name the address, too.
                excerpt=self.without_secrets(excerpt_of(body)) if keeps_address else "",
            )
        count = self._seldom.due((fault.code, kind, key_id))
        if count:
            if not keeps_address:
                address = shorten_addresses(address)
            text = self.without_secrets(fault.log_text)[:TEXT_CHARS_MAX]
            logger.warning(
                "refused status=%d code=%s path=%s key=%s peer=%s count=%d: %s",
                *(fault.status, fault.code, kind, key_id, address, count, text),
            )

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
