"""How settings ask for objects in a bucket: `s3://bucket/prefix`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from segsrv.errors import SettingsError
from segsrv.settings.fields import option
from segsrv.sinks.kind import Kind, SinkSpec
from segsrv.sinks.s3.objects import PARQUET_SUFFIX, SUFFIXES, Compression, Form, form_of
from segsrv.sinks.s3.sink import Credentials, Endpoint, S3Sink

PREFIX_CHARS_MAX = 500
"""A key has up to 1,024 bytes, and segsrv's own part of it about 170."""
CA_BYTES_MAX = 1 << 20
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_SEGMENT = re.compile(r"[A-Za-z0-9._=-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """What an S3 sink can be told; the empty text leaves it to the environment or AWS."""

    endpoint: str = option("", "URL of a server other than AWS")
    region: str = option("", "region of the bucket")
    addressing: Literal["auto", "path", "virtual"] = option(
        "auto", "whether the bucket is in the path or the host of requests"
    )
    compression: Compression = option("zstd", "how NDJSON objects are compressed")
    create_only: bool = option(True, "send If-None-Match, so that no object is replaced")
    ca_file: Path | None = option(None, "certificates to trust beside the system's")
    connect_timeout_s: float = option(
        5.0, "longest time to connect, within send_timeout_s", low=0.1, high=60
    )


def _place(spec: SinkSpec) -> str:
    bucket, prefix = _path(spec)
    return f"{_endpoint_url(spec)}/{bucket}/{prefix}"


def _make(spec: SinkSpec) -> S3Sink:
    options: S3Options = spec.options
    bucket, prefix = _path(spec)
    url = _endpoint_url(spec)
    # A bucket with a dot in its name has no certificate of AWS as a host.
    is_virtual = options.addressing == "virtual" or (
        options.addressing == "auto" and not url and "." not in bucket
    )
    if url and is_virtual:
        url = url.replace("://", f"://{bucket}.", 1)
    return S3Sink(
        bucket,
        prefix,
        endpoint=Endpoint(
            url=url,
            region=options.region,
            is_virtual=is_virtual,
            ca=_certificates(spec),
            connect_timeout_s=options.connect_timeout_s,
        ),
        credentials=_credentials(spec),
        form=_form(spec),
        is_create_only=options.create_only,
        timeout_s=spec.config.send_timeout_s,
    )


def _path(spec: SinkSpec) -> tuple[str, str]:
    """Return the bucket, and the prefix, which is empty or ends with a slash."""
    rest = spec.url.removeprefix("s3://").rpartition("@")[2]
    bucket, _slash, path = rest.partition("/")
    if not spec.url.startswith("s3://") or not _BUCKET.fullmatch(bucket):
        raise SettingsError(f"{spec.where}: expected s3://bucket/prefix")
    path = path.rstrip("/")
    segments = path.split("/") if path else []
    if any(not _SEGMENT.fullmatch(name) or name in (".", "..") for name in segments):
        raise SettingsError(
            f"{spec.where}: expected a prefix of letters, digits, dots, dashes, underscores and "
            "equals signs, with single slashes between"
        )
    if len(path) > PREFIX_CHARS_MAX:
        raise SettingsError(
            f"{spec.where}: a prefix of {len(path)} characters, the limit is {PREFIX_CHARS_MAX}"
        )
    return bucket, f"{path}/" if path else ""


def _endpoint_url(spec: SinkSpec) -> str:
    """Return the endpoint without a slash at its end, its scheme and host in lower case."""
    given = spec.options.endpoint
    if not given:
        return ""
    problem = f"{spec.where}: options.endpoint: expected http(s)://host or http(s)://host:port"
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError:
        raise SettingsError(problem) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in given:
        raise SettingsError(problem)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise SettingsError(problem)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def _credentials(spec: SinkSpec) -> Credentials | None:
    """Return the key, from the secrets or the URL's user and password; None if there is none."""
    user, at, _host = spec.url.removeprefix("s3://").rpartition("@")
    user_id, _colon, password = user.partition(":")
    key_id = spec.secrets.get("access_key_id", "")
    secret = spec.secrets.get("secret_access_key", "")
    token = spec.secrets.get("session_token", "")
    if at and (key_id or secret):
        raise SettingsError(f"{spec.where}: the key is in the URL and in secrets; give it once")
    if at:
        key_id, secret = unquote(user_id), unquote(password)
    if bool(key_id) != bool(secret):
        raise SettingsError(
            f"{spec.where}: expected both access_key_id and secret_access_key, or none of them"
        )
    if token and not key_id:
        raise SettingsError(f"{spec.where}: a session_token needs the key that it belongs to")
    return Credentials(key_id, secret, token) if key_id else None


def _form(spec: SinkSpec) -> Form:
    compression: Compression = spec.options.compression
    if spec.config.encoding != "parquet":
        return form_of(SUFFIXES[compression])
    if compression != "zstd":
        raise SettingsError(
            f"{spec.where}: options.compression={compression} is for NDJSON; "
            "Parquet has zstd of its own"
        )
    try:
        # Nobody else needs what makes Parquet.
        return form_of(PARQUET_SUFFIX)
    except ImportError as error:
        raise SettingsError(f"{spec.where}: needs {error.name}; install segsrv[parquet]") from error


def _certificates(spec: SinkSpec) -> bytes:
    path: Path | None = spec.options.ca_file
    if path is None:
        return b""
    try:
        with path.open("rb") as file:
            pem = file.read(CA_BYTES_MAX)
    except OSError as error:
        raise SettingsError(
            f"{spec.where}: options.ca_file={path}: can't be read: {error.strerror}"
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise SettingsError(f"{spec.where}: options.ca_file={path}: holds no certificate")
    return pem


S3 = Kind(
    schemes=("s3",),
    place=_place,
    make=_make,
    options=S3Options,
    secrets=("access_key_id", "secret_access_key", "session_token"),
    encodings=("ndjson", "parquet"),
    # An object that holds a minute costs little to store and to read; one a second would not. What
    # malloc gets from the system anew each time, from 32 MiB on, takes a quarter more CPU an event.
    batch_events_max=100_000,
    batch_bytes_max=30 << 20,
    batch_interval_s=60.0,
)
