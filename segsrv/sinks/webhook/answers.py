"""What the answers of a webhook's receiver mean, and what of them people get to see."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from yarl import URL

from segsrv.errors import SegsrvError, SinkMisconfigured, SinkRejected, SinkUnavailable

SHOWN_CHARS_MAX = 200
SECRET_CHARS_MIN = 4
"""What is shorter would be found everywhere."""
PIECE_CHARS_MIN = 8
"""Of a part of a path, a query or a header, which may be a secret or a common word."""
RETRY_AFTER_S_MAX = 86_400.0

_REFUSED = frozenset((400, 413, 422))
_NOT_NOW = frozenset((408, 425, 429))
_HINTS = {
    401: "it refuses the credentials",
    403: "the credentials have no right to send there",
    404: "there is nothing at this path",
    405: "it does not take this method",
    407: "a proxy on the way wants credentials",
    410: "it wants no more batches",
    415: "it does not take this encoding or compression",
}
_BETWEEN_PIECES = re.compile(r"[\s/=&?;,:\"]+")
_REDIRECTS = range(300, 400)


class Redactor:
    """Makes what a receiver answered fit for logs: one short line, without our secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {part for secret in secrets for part in _parts(secret)}
        longest_first = sorted(known, key=len, reverse=True)
        self._secret = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def line(self, content_type: str, body: bytes) -> str:
        """Return the first line of *body* that says something, as far as people can read it."""
        text = body.decode("utf-8", "replace")
        if "html" in content_type or text.lstrip()[:1] == "<":
            return ""
        text = self._secret.sub("…", text)
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")
        shown = "".join(char if char.isprintable() else " " for char in first[:SHOWN_CHARS_MAX])
        return shown + ("…" if len(first) > SHOWN_CHARS_MAX else "")


def _parts(secret: str) -> Iterator[str]:
    """Yield what of *secret* a receiver may quote: the whole, a word of it, or a value in it."""
    for part in (secret, *secret.split()):
        if len(part) >= SECRET_CHARS_MIN:
            yield part
    for piece in _BETWEEN_PIECES.split(secret):
        if len(piece) >= PIECE_CHARS_MIN:
            yield piece


def fault(
    receiver: str, status: int, text: str, *, location: str = "", retry_after: str = ""
) -> SegsrvError | None:
    """Return what an answer to a batch means; None where the receiver took it.

    Only 400, 413 and 422 speak of the events: what else is wrong, such as a token that expired,
    must not make dead letters of them.
    """
    if 200 <= status < 300:
        return None
    said = f"{receiver} answered {status}"
    if status in _REFUSED:
        return SinkRejected(_with(said, text))
    if status in _NOT_NOW or status >= 500:
        return SinkUnavailable(_with(said, text), retry_after_s=seconds(retry_after))
    if status in _REDIRECTS:
        return SinkMisconfigured(f"{said}: {_redirect(location)}")
    if hint := _HINTS.get(status):
        said = f"{said}, {hint}"
    return SinkMisconfigured(_with(said, text))


def check_fault(
    receiver: str, status: int, text: str, *, location: str = "", retry_after: str = ""
) -> SegsrvError | None:
    """Return what an answer to a check means; None for what says nothing of batches."""
    if status in _REFUSED or status in {405, 411, 415, 501}:
        return None
    return fault(receiver, status, text, location=location, retry_after=retry_after)


def seconds(retry_after: str) -> float:
    """Return what a Retry-After says, seconds or a date; 0 for nothing that can be read."""
    text = retry_after.strip()
    asked_s = 0.0
    if text.isascii() and text.isdigit():
        asked_s = float(text[:10])
    else:
        with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
            when = parsedate_to_datetime(text)
            when = when if when.tzinfo else when.replace(tzinfo=UTC)
            asked_s = (when - datetime.now(UTC)).total_seconds()
    return min(max(asked_s, 0.0), RETRY_AFTER_S_MAX)


def origin(url: URL) -> str:
    """Return scheme, host and port, without what may be a secret: users, paths and queries."""
    return str(url.origin())


def _redirect(location: str) -> str:
    where = "elsewhere"
    with contextlib.suppress(ValueError):
        url = URL(location)
        where = f"to {origin(url)}" if url.absolute else "to another path"
    return f"a redirect {where}, which is never followed; give the URL of its end"


def _with(said: str, text: str) -> str:
    return f"{said}: {text}" if text else said
