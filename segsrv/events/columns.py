"""What of a stored event becomes a typed column in a table or a Parquet file.

Every sink with columns has these, beside `event` with the whole stored line. The values are the
clients' to choose: one that does not fit its column's type is NULL there, and stays in `event`.
Columns of FACTS are what segsrv itself knows of an event, and can't be forged.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

ColumnType = Literal["text", "timestamp", "float", "bool"]
"""What fits: `text` takes strings, and numbers as JSON has them; `timestamp` a string by RFC 3339
with a zone, of the years 1 to 9999; `float` a number; `bool` true and false. Nothing else does."""

Path = tuple[str, ...]


class Column(NamedTuple):
    """One value of an event, and the keys that lead to it: `flat` and `compat` by the format.

    Events of the format `tracker` are stored as their sender made them, most of them flat.
    """

    name: str
    type: ColumnType
    flat: Path
    compat: Path


class Fact(NamedTuple):
    """One value that is known beside an event; `name` is also that of the column."""

    name: str
    type: ColumnType


FACTS = (
    Fact("event_id", "text"),
    Fact("received_at", "timestamp"),
    Fact("type", "text"),
    Fact("format", "text"),
    Fact("key_id", "text"),
)
"""Those of `journal.facts`, `received_at` being `received_ms`; all are NULL where unknown."""


def _column(name: str, path: str, kind: ColumnType = "text", *, is_nested: bool = True) -> Column:
    flat = tuple(path.split("."))
    return Column(name, kind, flat, ("eventn_ctx", *flat) if is_nested else flat)


COLUMNS = (
    _column("event_name", "event", is_nested=False),
    _column("name", "name", is_nested=False),
    _column("timestamp", "timestamp", "timestamp", is_nested=False),
    _column("sent_at", "sentAt", "timestamp", is_nested=False),
    _column("user_id", "ids.ajs_user_id"),
    _column("anonymous_id", "ids.ajs_anonymous_id"),
    _column("group_id", "groupId", is_nested=False),
    _column("page_url", "doc.url"),
    _column("page_path", "doc.path"),
    _column("page_title", "page_title"),
    _column("referrer", "referer"),
    _column("utm_source", "utm.source"),
    _column("utm_medium", "utm.medium"),
    _column("utm_campaign", "utm.campaign"),
    _column("utm_term", "utm.term"),
    _column("utm_content", "utm.content"),
    _column("country", "location.country"),
    _column("region", "location.region"),
    _column("city", "location.city"),
    _column("latitude", "location.latitude", "float"),
    _column("longitude", "location.longitude", "float"),
    _column("ip", "source_ip", is_nested=False),
    _column("user_agent", "user_agent"),
    _column("browser", "parsed_ua.ua_family"),
    _column("browser_version", "parsed_ua.ua_version"),
    _column("os", "parsed_ua.os_family"),
    _column("os_version", "parsed_ua.os_version"),
    _column("device", "parsed_ua.device_family"),
    _column("is_bot", "parsed_ua.bot", "bool"),
    _column("language", "user_language"),
)

EVENT = "event"
"""The column of the whole stored line."""
