"""What PostgreSQL's errors mean: not now, not as configured, or not these events."""

from __future__ import annotations

import errno
import os
import ssl
from typing import Any

import asyncpg

from segsrv.errors import SegsrvError, SinkMisconfigured, SinkUnavailable

MESSAGE_CHARS_MAX = 300

_EVENTS = ("22", "23", "44", "54", "P0")
"""Classes of SQLSTATE for what is wrong with values: types, constraints, limits, RAISE."""
_SETTINGS = ("0A", "28", "2F", "3D", "3F", "42", "55000", "57P04")
"""For what somebody has to mend: access, names that are missing, rights, types of columns."""
_CHECK_VIOLATION = "23514"
_NOT_NULL_VIOLATION = "23502"
_SEQUENCE_END = "2200H"
UNIQUE_VIOLATION = "23505"


def is_about_events(error: Exception, columns: tuple[str, ...]) -> bool:
    """Say whether *error* refuses a value, not knowing more *columns* than these."""
    if not isinstance(error, asyncpg.PostgresError):
        return False
    code, rule, column = (_of(error, n) for n in ("sqlstate", "constraint_name", "column_name"))
    return code.startswith(_EVENTS) and whose_fault(code, rule, column, columns) is None


def whose_fault(code: str, rule: str, column: str, columns: tuple[str, ...]) -> str | None:
    """Return what is wrong with the table where it would refuse any event at all."""
    if code == _CHECK_VIOLATION and not rule:
        # A check has a name; this is what PostgreSQL says of a row that no partition takes.
        return "the table has no partition for an event; make one, or a default partition"
    if code == _NOT_NULL_VIOLATION and column and column not in columns:
        return f"the column {column!r} is NOT NULL without a default, and segsrv has no value"
    if code == _SEQUENCE_END:
        return "a sequence that numbers the table's rows has reached its end"
    return None


def meaning(error: Exception, where: str) -> SegsrvError:
    """Return what delivery is to make of *error*, the driver's or the network's."""
    if isinstance(error, ssl.SSLError):
        # An OSError, too; a connection that is cut while it is encrypted is one without a reason.
        reason = getattr(error, "verify_message", "") or error.reason
        if reason:
            return SinkMisconfigured(f"{where}: no encrypted connection: {reason}")
        return SinkUnavailable(f"{where}: the encrypted connection broke")
    if isinstance(error, asyncpg.PostgresError):
        return _meaning_of_server(error, where)
    if isinstance(error, asyncpg.ClientConfigurationError):
        return SinkMisconfigured(f"{where}: {error}")
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return SinkMisconfigured(f"{where}: the server takes no encrypted connections")
    return SinkUnavailable(f"{where}: no connection: {_of_network(error)}")


def _meaning_of_server(error: asyncpg.PostgresError, where: str) -> SegsrvError:
    code, text = _of(error, "sqlstate"), said(error)
    if code in ("08003", "08006"):
        return SinkUnavailable(f"{where}: the connection broke")
    if code == "25006":
        return SinkUnavailable(f"{where}: the server takes no writes, as a standby does: {text}")
    if code == "57014":
        return SinkUnavailable(f"{where}: the server needed too long: {text}")
    if code == "28P01":
        return SinkMisconfigured(f"{where}: wrong password or user: {text}")
    if code.startswith("28"):
        return SinkMisconfigured(f"{where}: no access: {text}")
    if code == "42501":
        return SinkMisconfigured(f"{where}: a right is missing: {text}")
    if fault := whose_fault(code, _of(error, "constraint_name"), _of(error, "column_name"), ()):
        return SinkMisconfigured(f"{where}: {fault}")
    if code.startswith(_SETTINGS):
        return SinkMisconfigured(f"{where}: {text}")
    return SinkUnavailable(f"{where}: {code}: {text}")


def said(error: asyncpg.PostgresError) -> str:
    """Return the server's message on one line, without what it quotes of an event."""
    return message_of(_of(error, "sqlstate"), _of(error, "message") or str(error))


def message_of(code: str, message: str) -> str:
    """Return a server's message, of this SQLSTATE, for people."""
    if code.startswith("22"):
        # It quotes the value.
        return f"a value does not fit (SQLSTATE {code})"
    return " ".join(message.split())[:MESSAGE_CHARS_MAX]


def _of_network(error: Exception) -> str:
    number = getattr(error, "errno", None) or 0
    if number in errno.errorcode:
        # The loop puts texts of its own in the place of this one.
        return os.strerror(number)
    text = _of(error, "strerror") or str(error) or error.__class__.__name__
    return " ".join(text.split())[:MESSAGE_CHARS_MAX]


def _of(error: Any, name: str) -> str:
    return getattr(error, name, None) or ""
