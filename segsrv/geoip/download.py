"""Fetches a GeoIP database and puts it in place whole, or leaves what is there as it was.

The archive goes to a temporary file beside the target, is unpacked to a second one, opened once
with maxminddb, synced and renamed over the target: a running server that watches the file never
sees half of it. Nothing is believed about what comes: bytes, times and redirects are bounded, and
no name inside an archive is used as a path.

A licence key goes to the provider's own origin only. URLs are shown without their query, because
the key is in it when there is no account id, and a signature after a redirect.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import sys
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING

import aiohttp
import maxminddb
from tqdm import tqdm
from yarl import URL

from segsrv.errors import SegsrvError, SettingsError
from segsrv.files import publish
from segsrv.geoip.archive import ArchiveError, unpack

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Iterator

LICENSE_KEY_ENV = "MAXMIND_LICENSE_KEY"
ACCOUNT_ID_ENV = "MAXMIND_ACCOUNT_ID"
DBIP_URL = "https://download.db-ip.com"
MAXMIND_URL = "https://download.maxmind.com"
MAXMIND_EDITIONS = {"city": "GeoLite2-City", "country": "GeoLite2-Country", "asn": "GeoLite2-ASN"}
DBIP_NOTICE = (
    "The database is licensed CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). Where its "
    "data is shown, show this too: IP Geolocation by DB-IP (https://db-ip.com)"
)
GEOLITE_NOTICE = (
    "Where its data is shown, show this too: This product includes GeoLite Data created by "
    "MaxMind, available from https://www.maxmind.com"
)
STATUS_HINTS = {
    401: ", the licence key or account id is wrong",
    403: ", no access to this edition",
    404: ", there is no such edition or file",
    429: ", too many downloads today",
}
CHUNK_BYTES = 256 << 10


class DownloadError(SegsrvError):
    """The database could not be fetched, checked or put in place; the old one is untouched."""

    code = "download"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a provider may send at most, and how long it may take."""

    archive_bytes_max: int = 1 << 30
    database_bytes_max: int = 4 << 30  # Everything that comes out of the archive.
    redirects_max: int = 5
    connect_timeout_s: float = 30.0
    read_timeout_s: float = 60.0  # Between two pieces of the body.
    total_timeout_s: float = 3_600.0


LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a database is and how it is packed; the next of `urls` is tried when one is a 404."""

    urls: tuple[URL, ...]
    checksum_url: URL | None = None
    authorization: str | None = field(default=None, repr=False)
    is_tar: bool = False
    notice: str = ""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the flags of `segsrv geoip download`."""
    add = parser.add_argument
    add("--provider", choices=("dbip", "maxmind"), default="dbip", help="default: dbip, no account")
    add(
        "--edition", default="city", help="city (default), country, asn or a MaxMind edition's name"
    )
    add("--license-key", metavar="KEY", help=f"MaxMind licence key; better in {LICENSE_KEY_ENV}")
    add("--account-id", metavar="ID", help=f"MaxMind account id, also {ACCOUNT_ID_ENV}")
    add("--to", type=Path, metavar="FILE", help="default: data/geoip/EDITION.mmdb")
    add("--base-url", metavar="URL", help="a mirror, instead of the provider's scheme and host")
    add("--quiet", action="store_true", help="only print errors")


def run(flags: argparse.Namespace, limits: Limits = LIMITS) -> int:
    """Do what *flags* ask and return the exit code; an error is one line on stderr."""
    try:
        source = _source(flags)
        target: Path = flags.to or Path("data", "geoip", f"{flags.edition}.mmdb")
        metadata = fetch(source, target, limits, is_quiet=flags.quiet)
    except SegsrvError as error:
        sys.stderr.write(f"segsrv geoip download: {error}\n")
        return 2
    if not flags.quiet:
        built = datetime.fromtimestamp(metadata.build_epoch, UTC)
        sys.stdout.write(
            f"{target}: {metadata.database_type}, built {built:%Y-%m-%d %H:%M} UTC, "
            f"{metadata.node_count} nodes\n"
        )
        if source.notice:
            sys.stdout.write(f"{source.notice}\n")
    return 0


def fetch(
    source: Source, target: Path, limits: Limits = LIMITS, *, is_quiet: bool = False
) -> maxminddb.reader.Metadata:
    """Put the database of *source* at *target* in one step and return what it says of itself.

    Raises:
        DownloadError: Anything went wrong; *target* is as it was and nothing is left beside it.

    """
    if target.is_dir():
        raise DownloadError(f"{target}: is a directory, expected the name of a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target) as archive, _temporary(target) as database:
            url = asyncio.run(_download(source, archive, limits, is_quiet=is_quiet))
            archive.seek(0)
            try:
                unpack(archive, database, bytes_max=limits.database_bytes_max, is_tar=source.is_tar)
            except ArchiveError as error:
                raise DownloadError(f"{_shown(url)}: {error}") from error
            database.flush()
            metadata = _metadata(Path(database.name), url)
            _replace(Path(database.name), target)
    except OSError as error:
        raise DownloadError(f"{target}: {error.strerror or error}") from error
    return metadata


def dbip_source(edition: str, base_url: URL, today: date) -> Source:
    """Return the DB-IP Lite files of this month and, as it may not be out yet, of the one before.

    Raises:
        SettingsError: There is no such edition.

    """
    if edition not in MAXMIND_EDITIONS:
        raise SettingsError(f"--edition {edition!r}: expected {', '.join(MAXMIND_EDITIONS)}")
    months = (today, today.replace(day=1) - timedelta(days=1))
    urls = tuple(
        base_url.joinpath("free", f"dbip-{edition}-lite-{month:%Y-%m}.mmdb.gz") for month in months
    )
    return Source(urls=urls, notice=DBIP_NOTICE)


def maxmind_source(edition: str, base_url: URL, license_key: str, account_id: str) -> Source:
    """Return a MaxMind edition; without an account id the older permalink, with the key in it.

    Raises:
        SettingsError: A value can't be right; the message never holds the key.

    """
    edition = MAXMIND_EDITIONS.get(edition, edition)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", edition):
        raise SettingsError(f"--edition {edition!r}: expected letters, digits and dashes")
    if not license_key:
        raise SettingsError(f"--provider maxmind needs --license-key or {LICENSE_KEY_ENV}")
    authorization = None
    if account_id:
        # The value is not shown: it may well be the key, given in the wrong place.
        if not re.fullmatch(r"[0-9]+", account_id):
            raise SettingsError(f"--account-id or {ACCOUNT_ID_ENV}: expected digits only")
        token = base64.b64encode(f"{account_id}:{license_key}".encode()).decode()
        authorization = f"Basic {token}"
        url = base_url.joinpath("geoip", "databases", edition, "download")
    else:
        url = base_url.joinpath("app", "geoip_download").with_query(
            edition_id=edition, license_key=license_key
        )
    return Source(
        urls=(url.update_query(suffix="tar.gz"),),
        checksum_url=url.update_query(suffix="tar.gz.sha256"),
        authorization=authorization,
        is_tar=True,
        notice=GEOLITE_NOTICE if edition.startswith("GeoLite") else "",
    )


def _source(flags: argparse.Namespace) -> Source:
    if flags.provider == "maxmind":
        return maxmind_source(
            flags.edition,
            _base_url(flags.base_url or MAXMIND_URL),
            (flags.license_key or os.environ.get(LICENSE_KEY_ENV, "")).strip(),
            (flags.account_id or os.environ.get(ACCOUNT_ID_ENV, "")).strip(),
        )
    if flags.license_key or flags.account_id:
        raise SettingsError("--license-key and --account-id are for --provider maxmind")
    return dbip_source(
        flags.edition, _base_url(flags.base_url or DBIP_URL), datetime.now(UTC).date()
    )


def _base_url(text: str) -> URL:
    with contextlib.suppress(ValueError):
        url = URL(text)
        is_bare = not (url.user or url.password or url.query_string or url.fragment)
        if url.scheme in {"http", "https"} and url.host and is_bare:
            return url
    # The value is not shown: it may hold a password.
    raise SettingsError("--base-url: expected http(s)://HOST[:PORT][/PATH] without credentials")


async def _download(source: Source, archive: IO[bytes], limits: Limits, *, is_quiet: bool) -> URL:
    """Write the first of the source's files that exists to *archive* and return its URL."""
    session = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(
            total=None, connect=limits.connect_timeout_s, sock_read=limits.read_timeout_s
        ),
        headers={"User-Agent": "segsrv", "Accept-Encoding": "identity"},
        # A server may label the archive as gzip-encoded; it is unpacked here, once, either way.
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    url = source.urls[0]
    try:
        async with asyncio.timeout(limits.total_timeout_s), session:
            expected = await _checksum(session, source, limits)
            for url in source.urls:
                async with _get(session, url, source, limits) as response:
                    if response.status == 404 and url != source.urls[-1]:
                        continue
                    _check_status(response, url)
                    digest = await _save(response, archive, url, limits, is_quiet=is_quiet)
                break
    except TimeoutError:
        raise DownloadError(f"{_shown(url)}: not done after {limits.total_timeout_s:g} s") from None
    if expected not in {None, digest}:
        raise DownloadError(
            f"{_shown(url)}: the sha256 is {digest}, expected {expected}; if the database was "
            "published just now, try again"
        )
    return url


async def _checksum(session: aiohttp.ClientSession, source: Source, limits: Limits) -> str | None:
    if source.checksum_url is None:
        return None
    async with _get(session, source.checksum_url, source, limits) as response:
        _check_status(response, source.checksum_url)
        try:
            text = await response.content.readexactly(hashlib.sha256().digest_size * 2)
        except asyncio.IncompleteReadError as error:
            text = error.partial
    if not re.fullmatch(rb"[0-9a-fA-F]{64}", text):
        raise DownloadError(f"{_shown(source.checksum_url)}: the answer is not a sha256")
    return text.decode().lower()


@contextlib.asynccontextmanager
async def _get(
    session: aiohttp.ClientSession, url: URL, source: Source, limits: Limits
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Ask for *url* and follow redirects, without the authorization once they leave the origin."""
    origin = url.origin()
    try:
        for _ in range(limits.redirects_max + 1):
            headers = {}
            if source.authorization and url.origin() == origin:
                headers["Authorization"] = source.authorization
            async with session.get(
                url, headers=headers, allow_redirects=False, proxy=_proxy(url)
            ) as response:
                location = response.headers.get("Location")
                if location is None or response.status not in {301, 302, 303, 307, 308}:
                    yield response
                    return
                url = _redirected(url, location)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        # Not chained: the text of many of these errors holds the whole URL, and so the key.
        raise DownloadError(f"{_shown(url)}: {_reason(error)}") from None
    raise DownloadError(f"{_shown(url)}: redirected more than {limits.redirects_max} times")


def _redirected(url: URL, location: str) -> URL:
    """Return where *location* points to; a signature in it must not be quoted anew."""
    try:
        there = url.join(URL(location, encoded=True))
    except ValueError:
        there = URL()
    if there.scheme not in {"http", "https"} or not there.host:
        raise DownloadError(f"{_shown(url)}: redirected to something that is no web address")
    if url.scheme == "https" and there.scheme != "https":
        raise DownloadError(f"{_shown(url)}: redirected to {_shown(there)}, which is not HTTPS")
    return there


def _proxy(url: URL) -> str | None:
    # Not aiohttp's trust_env: that also reads ~/.netrc, and fails when it knows this host.
    if urllib.request.proxy_bypass(url.host or ""):
        return None
    return urllib.request.getproxies().get(url.scheme)


def _shown(url: URL) -> str:
    return str(url.with_user(None).with_query(None).with_fragment(None))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error)  # Holds the host only.
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut short"
    return f"the request failed ({type(error).__name__})"


def _check_status(response: aiohttp.ClientResponse, url: URL) -> None:
    if response.status == 200:
        return
    hint = STATUS_HINTS.get(response.status, "")
    raise DownloadError(f"{_shown(url)}: answered {response.status}{hint}")


async def _save(
    response: aiohttp.ClientResponse,
    archive: IO[bytes],
    url: URL,
    limits: Limits,
    *,
    is_quiet: bool,
) -> str:
    """Write the body to *archive* and return its sha256."""
    digest = hashlib.sha256()
    received_bytes = 0
    with tqdm(
        total=response.content_length,
        desc="GeoIP database",
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        disable=is_quiet or not sys.stderr.isatty(),
    ) as bar:
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            received_bytes += len(chunk)
            if received_bytes > limits.archive_bytes_max:
                raise DownloadError(
                    f"{_shown(url)}: more than {limits.archive_bytes_max} B in the archive"
                )
            digest.update(chunk)
            archive.write(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _metadata(path: Path, url: URL) -> maxminddb.reader.Metadata:
    try:
        with maxminddb.open_database(path) as reader:
            metadata = reader.metadata()
            datetime.fromtimestamp(metadata.build_epoch, UTC)
    except (maxminddb.InvalidDatabaseError, ValueError, TypeError, OverflowError, OSError) as error:
        raise DownloadError(f"{_shown(url)}: what came is not a MaxMind database") from error
    return metadata


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[IO[bytes]]:
    """Open a new file beside *target*, with the mode of the umask, and remove it at the end."""
    path = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    with path.open("x+b") as file:
        try:
            yield file
        finally:
            path.unlink(missing_ok=True)


def _replace(path: Path, target: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.copymode(target, path)
    publish(path, target)
