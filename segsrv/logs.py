"""Log lines as `key=value` on stderr: quiet, one line each, tracebacks included."""

from __future__ import annotations

import json
import logging
import sys
import time

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+")


class LineFormatter(logging.Formatter):
    """Formats a record as one line of logfmt; what is not plain text is quoted as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())


def configure(level: str) -> None:
    """Send this process's log lines to stderr, from *level* up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # aiohttp logs a traceback for each request that is no HTTP; anybody could fill the log.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def _quoted(text: str) -> str:
    if text and _PLAIN.issuperset(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    # Clients' text may be in a line: what would move a terminal's cursor is escaped too.
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in quoted)
