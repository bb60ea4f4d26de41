"""How settings ask for a webhook: the URL that batches are posted to, `http(s)://HOST/PATH`."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from multidict import CIMultiDict
from yarl import URL

from segsrv.errors import SettingsError
from segsrv.sinks.kind import Kind, SinkSpec
from segsrv.sinks.webhook.options import WebhookOptions
from segsrv.sinks.webhook.sink import Access, WebhookSink

HEADERS_MAX = 50
HEADER_CHARS_MAX = 8_000
SIGNING_KEY_PREFIX = "whsec_"
SIGNING_KEY_BYTES_MIN, SIGNING_KEY_BYTES_MAX = 24, 64
"""As the specification of Standard Webhooks has it."""
BODY_BYTES_MAX = 1_000_000
"""nginx refuses bodies of more than 1 MiB unless it is told otherwise."""
EVENTS_MAX = 500
"""So many events are handled one by one in less than the ten seconds that receivers often get."""
INTERVAL_S = 1.0

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE = re.compile(r"[\t\x20-\x7e]+")
_OURS = frozenset(
    "connection content-encoding content-length expect host idempotency-key keep-alive te trailer "
    "transfer-encoding upgrade webhook-id webhook-signature webhook-timestamp".split()
)


def _url(spec: SinkSpec) -> URL:
    """Return the URL, with user and password if it has them."""
    try:
        url = URL(spec.url)
        # An @ elsewhere may belong to a password that should have been escaped.
        is_plain = "@" not in f"{url.raw_path}?{url.raw_query_string}" and not url.raw_fragment
        is_whole = url.scheme in WEBHOOK.schemes and url.host and url.port
    except ValueError:
        is_plain = is_whole = False
    if not is_whole:
        raise SettingsError(f"{spec.where}: expected http(s)://HOST[:PORT]/PATH")
    if not is_plain:
        raise SettingsError(
            f"{spec.where}: expected no # in the URL, and %40 for an @ in its path or query"
        )
    return url


def _place(spec: SinkSpec) -> str:
    url = _url(spec)
    return f"{url.scheme}://{url.raw_host}:{url.port}{url.raw_path_qs}"


def _make(spec: SinkSpec) -> WebhookSink:
    from segsrv import __version__  # noqa: PLC0415 - the package imports this module's siblings.

    url, options = _url(spec), spec.options
    if options.ca_file is not None and url.scheme != "https":
        raise SettingsError(f"{spec.where}.options.ca_file: is for https only")
    given = _headers(spec, url)
    headers = CIMultiDict({"User-Agent": f"segsrv/{__version__}"})
    headers.update(given)
    return WebhookSink(
        url.with_user(None),
        options,
        Access(
            headers=headers,
            signing_keys=tuple(_signing_keys(spec)),
            secrets=(*spec.secrets.values(), *_secret_parts(url), *given.values()),
        ),
        encoding="json" if spec.config.encoding == "json" else "ndjson",
    )


def _headers(spec: SinkSpec, url: URL) -> CIMultiDict[str]:
    """Return all headers that were asked for."""
    headers: CIMultiDict[str] = CIMultiDict()
    for where, name, value in _given_headers(spec, url):
        if not _NAME.fullmatch(name):
            raise SettingsError(f"{where}: expected names of letters, digits and dashes")
        if len(value) > HEADER_CHARS_MAX or not _VALUE.fullmatch(value):
            raise SettingsError(
                f"{where}: {name}: expected 1 to {HEADER_CHARS_MAX} characters of ASCII"
            )
        if name.lower() in _OURS:
            raise SettingsError(f"{where}: {name} is a header that segsrv sets itself")
        if name in headers:
            raise SettingsError(f"{where}: {name} is given twice")
        headers[name] = value
    if len(headers) > HEADERS_MAX:
        raise SettingsError(f"{spec.where}: {len(headers)} headers, the limit is {HEADERS_MAX}")
    return headers


def _given_headers(spec: SinkSpec, url: URL) -> Iterator[tuple[str, str, str]]:
    """Yield where each header was given, its name and its value."""
    for name, value in spec.options.headers.items():
        yield f"{spec.where}.options.headers", name.strip(), value.strip()
    where = f"{spec.where}.secrets"
    for number, line in enumerate(spec.secrets.get("headers", "").splitlines(), 1):
        name, colon, value = line.partition(":")
        if not colon:
            # The line may hold a secret, and a name that is none may be one.
            raise SettingsError(f"{where}.headers: line {number}: expected NAME: VALUE")
        yield f"{where}.headers: line {number}", name.strip(), value.strip()
    if authorization := spec.secrets.get("authorization"):
        yield f"{where}.authorization", "Authorization", authorization.strip()
    password = spec.secrets.get("password")
    if password is not None and url.user is None:
        raise SettingsError(f"{where}.password: is for the user in the URL, which has none")
    if password is not None and url.password is not None:
        raise SettingsError(f"{where}.password: is in the URL, too")
    if url.user is not None or url.password is not None:
        yield f"{spec.where}: the user in the URL", "Authorization", _basic(url, password)


def _basic(url: URL, password: str | None) -> str:
    known = f"{url.user or ''}:{password or url.password or ''}"
    return f"Basic {base64.b64encode(known.encode()).decode()}"


def _secret_parts(url: URL) -> Iterator[str]:
    """Yield what may be secret in a URL, as a receiver may quote it."""
    parts = (url.password, url.raw_password, url.path, url.raw_path, url.raw_query_string)
    yield from (part for part in (*parts, *url.query.values()) if part)


def _signing_keys(spec: SinkSpec) -> Iterator[bytes]:
    for name in ("signing_key", "signing_key_old"):
        if secret := spec.secrets.get(name):
            try:
                prefix, text = secret[: len(SIGNING_KEY_PREFIX)], secret[len(SIGNING_KEY_PREFIX) :]
                key = base64.b64decode(text, validate=True) if prefix == SIGNING_KEY_PREFIX else b""
            except (binascii.Error, ValueError):
                key = b""
            if not SIGNING_KEY_BYTES_MIN <= len(key) <= SIGNING_KEY_BYTES_MAX:
                raise SettingsError(
                    f"{spec.where}.secrets.{name}: expected {SIGNING_KEY_PREFIX} and "
                    f"{SIGNING_KEY_BYTES_MIN} to {SIGNING_KEY_BYTES_MAX} bytes as base64"
                )
            yield key


WEBHOOK = Kind(
    schemes=("http", "https"),
    place=_place,
    make=_make,
    options=WebhookOptions,
    secrets=("password", "authorization", "headers", "signing_key", "signing_key_old"),
    # It belongs to the receiver.
    has_query=False,
    encodings=("ndjson", "json"),
    batch_events_max=EVENTS_MAX,
    batch_bytes_max=BODY_BYTES_MAX,
    batch_interval_s=INTERVAL_S,
)
