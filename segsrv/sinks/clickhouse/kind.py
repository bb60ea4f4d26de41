"""How settings ask for ClickHouse: `clickhouse://user@host:8123/database?table=events`."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from segsrv.errors import SettingsError
from segsrv.settings.fields import option
from segsrv.sinks.clickhouse.http import Address, Http
from segsrv.sinks.clickhouse.sink import ClickhouseSink
from segsrv.sinks.kind import Kind, SinkSpec

PLAIN, ENCRYPTED = "clickhouse", "clickhouses"
_PORTS = {PLAIN: 8123, ENCRYPTED: 8443}
DATABASE = "default"
NAME_CHARS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickhouseOptions:
    """What a ClickHouse sink can be told."""

    table: str = option("events", "table that events go to")
    create: bool = option(True, "make the table if it is missing")
    deduplication_window: int = option(
        1_000, "inserts that a table made by segsrv recognises", low=1, high=1_000_000
    )
    compress: Literal["none", "zstd"] = option("none", "how bodies are compressed on their way")
    ca_file: Path | None = option(None, "certificates to trust instead of the system's")
    connect_timeout_s: float = option(10.0, "longest time for connecting", low=0.1, high=600)


def _parsed(spec: SinkSpec) -> tuple[SplitResult, int, str]:
    """Return the URL's parts, the port and the database."""
    expected = f"{spec.where}: expected {PLAIN}://USER@HOST:PORT/DATABASE?table=TABLE"
    try:
        parts = urlsplit(spec.url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise SettingsError(expected) from None
    database = unquote(parts.path.strip("/")) or DATABASE
    table = spec.options.table
    if not parts.hostname or "/" in database or not table:
        raise SettingsError(expected)
    for what, name in (("database", database), ("table", table)):
        if len(name) > NAME_CHARS_MAX or not name.isprintable():
            raise SettingsError(
                f"{spec.where}: {what}: expected at most {NAME_CHARS_MAX} printable characters"
            )
    return parts, port, database


def _place(spec: SinkSpec) -> str:
    parts, port, database = _parsed(spec)
    return f"{parts.hostname}:{port}/{database}/{spec.options.table}"


def _make(spec: SinkSpec) -> ClickhouseSink:
    parts, port, database = _parsed(spec)
    password = spec.secrets.get("password") or unquote(parts.password or "")
    user = unquote(parts.username or "") or "default"
    if not (user + password).isprintable():
        raise SettingsError(f"{spec.where}: the user or the password holds a control character")
    has_tls = parts.scheme == ENCRYPTED
    address = Address(
        host=parts.hostname or "", port=port, has_tls=has_tls, user=user, password=password
    )
    options: ClickhouseOptions = spec.options
    http = Http(address, connect_timeout_s=options.connect_timeout_s, tls=_tls(spec, has_tls))
    return ClickhouseSink(
        http,
        where=spec.where,
        address=f"{parts.scheme}://{parts.hostname}:{port}/{database}",
        database=database,
        table=options.table,
        create=options.create,
        window=options.deduplication_window,
        compress=options.compress,
    )


def _tls(spec: SinkSpec, has_tls: bool) -> ssl.SSLContext | None:  # noqa: FBT001 - Private.
    ca_file = spec.options.ca_file
    if ca_file is None:
        return None
    if not has_tls:
        raise SettingsError(f"{spec.where}: ca_file is for {ENCRYPTED}: URLs only")
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SettingsError(f"{spec.where}: ca_file={ca_file}: {error.strerror or error}") from None


CLICKHOUSE = Kind(
    schemes=(PLAIN, ENCRYPTED),
    place=_place,
    make=_make,
    options=ClickhouseOptions,
    secrets=("password",),
    # Each insert becomes a part that the server has to merge: few and large ones suit it.
    batch_interval_s=1.0,
    batch_bytes_max=16 << 20,
    batch_events_max=20_000,
)
