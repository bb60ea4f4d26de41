"""How settings ask for a PostgreSQL sink: `postgresql://USER@HOST:PORT/DATABASE?table=events`."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from segsrv.errors import SettingsError
from segsrv.settings.fields import option
from segsrv.sinks.kind import Kind, SinkSpec
from segsrv.sinks.postgresql.names import Name
from segsrv.sinks.postgresql.sink import Address, PostgresqlSink

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
FORM = "postgresql://USER@HOST:PORT/DATABASE"
DEFAULT_PORT = 5432


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlOptions:
    """What one PostgreSQL sink can be told."""

    table: str = option("events", "table of the events, such as events or analytics.events")
    create: bool = option(True, "make the tables, columns and indexes that are missing")
    positions_table: str = option(
        "segsrv_positions", "table that says up to where events are stored"
    )
    host: str = option("", "folder of a Unix socket, for a URL without a host")
    sslmode: SslMode = option("prefer", "whether to encrypt, and what to check of the server")
    sslrootcert: Path | None = option(None, "certificates to trust in place of the system's")
    sslcert: Path | None = option(None, "this client's certificate")
    sslkey: Path | None = option(None, "its private key, if it is in a file of its own")


def _place(spec: SinkSpec) -> str:
    table, _positions = _names(spec)
    address = _address(spec)
    return f"{address.host}:{address.port}/{address.database}/{table.quoted}"


def _make(spec: SinkSpec) -> PostgresqlSink:
    table, positions = _names(spec)
    return PostgresqlSink(
        _address(spec),
        name=spec.name,
        # A command's events are those of no data directory.
        origin="" if spec.is_once else spec.origin,
        table=table,
        positions=positions,
        may_create=spec.options.create,
        tls=_tls(spec),
        timeout_s=spec.config.send_timeout_s,
    )


def _names(spec: SinkSpec) -> tuple[Name, Name]:
    try:
        table = Name.read(spec.options.table)
    except ValueError as error:
        raise SettingsError(f"{spec.where}.options.table={spec.options.table}: {error}") from None
    try:
        positions = Name.read(spec.options.positions_table, default_schema=table.schema)
    except ValueError as error:
        raise SettingsError(
            f"{spec.where}.options.positions_table={spec.options.positions_table}: {error}"
        ) from None
    if positions == table:
        raise SettingsError(f"{spec.where}.options.positions_table: is the table of the events")
    return table, positions


def _address(spec: SinkSpec) -> Address:
    try:
        url: SplitResult = urlsplit(spec.url)
        port = url.port or DEFAULT_PORT
    except ValueError:
        # Not chained: the error quotes the URL.
        raise SettingsError(f"{spec.where}: expected {FORM}") from None
    database = unquote(url.path.removeprefix("/"))
    if not database or "/" in database:
        raise SettingsError(f"{spec.where}: expected {FORM}, with one name for the database")
    if bool(url.hostname) == bool(spec.options.host):
        raise SettingsError(f"{spec.where}: expected a host in the URL, or else the option host")
    password = unquote(url.password or "")
    if password and "password" in spec.secrets:
        raise SettingsError(f"{spec.where}.secrets.password: one is in the URL, too")
    return Address(
        host=url.hostname or spec.options.host,
        port=port,
        user=unquote(url.username or ""),
        password=password or spec.secrets.get("password", ""),
        database=database,
    )


def _tls(spec: SinkSpec) -> str | ssl.SSLContext:
    """Return what the driver takes for these options; a name where it goes by that alone."""
    mode, root = spec.options.sslmode, spec.options.sslrootcert
    cert, key = spec.options.sslcert, spec.options.sslkey
    if key is not None and cert is None:
        raise SettingsError(f"{spec.where}.options.sslkey: needs sslcert")
    is_verified = mode.startswith("verify-")
    if root is not None and not is_verified:
        raise SettingsError(f"{spec.where}.options.sslrootcert: needs sslmode=verify-full")
    if mode in ("disable", "prefer"):
        if cert is not None:
            raise SettingsError(f"{spec.where}.options.sslcert: needs sslmode=require or more")
        return str(mode)
    try:
        context = ssl.create_default_context(cafile=root)
        if cert is not None:
            # Without a password to give, one that is asked for ends with an error, not on a tty.
            context.load_cert_chain(cert, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{spec.where}.options: certificates can't be read: {error.__class__.__name__}: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error
    context.check_hostname = mode == "verify-full"
    if not is_verified:
        context.verify_mode = ssl.CERT_NONE
    return context


POSTGRESQL = Kind(
    schemes=("postgresql",),
    place=_place,
    make=_make,
    options=PostgresqlOptions,
    secrets=("password",),
)
