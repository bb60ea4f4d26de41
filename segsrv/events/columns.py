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
    """One value of an event, and the keys that lead to it in each format.

    Events of the format `tracker` are stored as their sender made them, most of them flat.
    """

    name: str
    type: ColumnType
    flat: Path
    compat: Path
    segment: Path

    def path(self, output: str) -> Path:
        """Return the keys that lead to it in the format of this name."""
        return {"compat": self.compat, "segment": self.segment}.get(output, self.flat)


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


def _column(
    name: str, path: str, segment: str, kind: ColumnType = "text", *, is_nested: bool = True
) -> Column:
    flat = tuple(path.split("."))
    compat = ("eventn_ctx", *flat) if is_nested else flat
    return Column(name, kind, flat, compat, tuple(segment.split(".")))


def _root(name: str, key: str, kind: ColumnType = "text") -> Column:
    return _column(name, key, key, kind, is_nested=False)


COLUMNS = (
    _root("event_name", "event"),
    _root("name", "name"),
    _root("timestamp", "timestamp", "timestamp"),
    _root("sent_at", "sentAt", "timestamp"),
    _column("user_id", "ids.ajs_user_id", "userId"),
    _column("anonymous_id", "ids.ajs_anonymous_id", "anonymousId"),
    _root("group_id", "groupId"),
    _column("page_url", "doc.url", "context.page.url"),
    _column("page_path", "doc.path", "context.page.path"),
    _column("page_title", "page_title", "context.page.title"),
    _column("referrer", "referer", "context.page.referrer"),
    _column("utm_source", "utm.source", "context.campaign.source"),
    _column("utm_medium", "utm.medium", "context.campaign.medium"),
    _column("utm_campaign", "utm.campaign", "context.campaign.name"),
    _column("utm_term", "utm.term", "context.campaign.term"),
    _column("utm_content", "utm.content", "context.campaign.content"),
    _column("country", "location.country", "context.location.country"),
    _column("region", "location.region", "context.location.region"),
    _column("city", "location.city", "context.location.city"),
    _column("latitude", "location.latitude", "context.location.latitude", "float"),
    _column("longitude", "location.longitude", "context.location.longitude", "float"),
    _column("ip", "source_ip", "context.ip", is_nested=False),
    _column("user_agent", "user_agent", "context.userAgent"),
    _column("browser", "parsed_ua.ua_family", "context.parsedUserAgent.ua_family"),
    _column("browser_version", "parsed_ua.ua_version", "context.parsedUserAgent.ua_version"),
    _column("os", "parsed_ua.os_family", "context.parsedUserAgent.os_family"),
    _column("os_version", "parsed_ua.os_version", "context.parsedUserAgent.os_version"),
    _column("device", "parsed_ua.device_family", "context.parsedUserAgent.device_family"),
    _column("is_bot", "parsed_ua.bot", "context.parsedUserAgent.bot", "bool"),
    _column("language", "user_language", "context.locale"),
)

EVENT = "event"
"""The column of the whole stored line."""
