"""The command line: `segsrv serve`, `segsrv check`, `segsrv geoip download`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from segsrv import logs, server, settings_sources
from segsrv.delivery.station import journal_dir
from segsrv.errors import DataDirUnusable, SegsrvError, SettingsError
from segsrv.geoip import download
from segsrv.geoip.databases import Databases
from segsrv.http.analytics_js import AnalyticsJs
from segsrv.http.auth import Keyring
from segsrv.http.client_address import ClientAddress
from segsrv.http.cors import Cors
from segsrv.journal.files import obstacle
from segsrv.settings import Settings
from segsrv.sinks import make_sink, sink_names
from segsrv.tls import Certificate
from segsrv.write_keys import key_path, with_kept_key

WRONG_SETTINGS = 2
_EXAMPLE = (
    '{"type":"track","event":"Hello","userId":"u1","context":{"ip":"81.2.69.142","userAgent":'
    '"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}}'
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    try:
        status: int = flags.run(flags)
    except SettingsError as error:
        print(f"segsrv: {error}", file=sys.stderr)
        return WRONG_SETTINGS
    except SegsrvError as error:
        print(f"segsrv: {error}", file=sys.stderr)
        return server.STARTUP_FAILURE
    return status


def _parser() -> argparse.ArgumentParser:
    from segsrv import __version__  # noqa: PLC0415 - the package imports this module's siblings.

    parser = argparse.ArgumentParser(prog="segsrv", description="Segment-compatible event ingest.")
    parser.add_argument("--version", action="version", version=f"segsrv {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="take events in", allow_abbrev=False)
    settings_sources.add_flags(serve)
    serve.set_defaults(run=_serve)
    check = commands.add_parser("check", help="say what would run", allow_abbrev=False)
    settings_sources.add_flags(check)
    check.set_defaults(run=_check)
    geoip = commands.add_parser("geoip", help="GeoIP databases").add_subparsers(
        required=True, metavar="COMMAND"
    )
    fetch = geoip.add_parser("download", help="fetch a database", allow_abbrev=False)
    download.add_flags(fetch)
    fetch.set_defaults(run=download.run)
    return parser


def _serve(flags: argparse.Namespace) -> int:
    settings = settings_sources.load(vars(flags), os.environ)
    logs.configure(settings.log_level)
    has_own_key = not settings.all_keys()
    # An earlier start that failed may have made the key, but it told nobody.
    is_first_start = has_own_key and not journal_dir(settings).exists()

    def announce(url: str, settings: Settings) -> None:
        lines = [f"segsrv listening on {url}", *_describe(settings)]
        if has_own_key:
            lines.append(f"  key file    {key_path(settings)}")
        if is_first_start:
            lines += ["", "A write key was made. Try it:", "", _curl(url, settings)]
        print("\n".join(lines), flush=True)

    return server.serve(settings, announce)


def _check(flags: argparse.Namespace) -> int:
    settings = settings_sources.load(vars(flags), os.environ)
    for folder in (settings.data_dir, journal_dir(settings), key_path(settings).parent):
        if blocked := obstacle(folder):
            raise DataDirUnusable(
                f"data_dir={settings.data_dir}: {blocked} is not a folder that can be written"
            )
    has_own_key = not settings.all_keys()
    settings = with_kept_key(settings)
    ClientAddress(settings.trusted_proxies, settings.client_ip_header)
    AnalyticsJs(settings, Keyring(settings.all_keys()), Cors(settings.all_keys()))
    if settings.tls_cert is not None and settings.tls_key is not None:
        Certificate(settings.tls_cert, settings.tls_key)
    lines = _describe(settings)
    if has_own_key:
        when = "" if settings.all_keys() else " (made at the first start)"
        lines.append(f"  key file    {key_path(settings)}{when}")
    lines += [f"  database    {line}" for line in _databases(settings)]
    asyncio.run(_check_sinks(settings))
    scheme = "https" if settings.tls_cert else "http"
    print("\n".join([f"would listen on {scheme}://{settings.host}:{settings.port}", *lines]))
    return 0


async def _check_sinks(settings: Settings) -> None:
    for url in sink_names(settings).values():
        sink = make_sink(url, settings, worker=0)
        try:
            await sink.check()
        finally:
            await sink.close()


def _databases(settings: Settings) -> list[str]:
    return Databases(settings.geoip_db, entries_max=1, copy_dir=None).describe()


def _describe(settings: Settings) -> list[str]:
    """Say what runs, without secrets."""
    sinks = [make_sink(url, settings, worker=0).describe() for url in sink_names(settings).values()]
    rows = {
        "formats": "flat at /api/v1/segment, compat at /api/v1/segment/compat",
        "keys": ", ".join(key.id for key in settings.all_keys()) or "none yet",
        "sinks": ", ".join(sinks),
        "geoip": ", ".join(map(str, settings.geoip_db)) or "none",
        "durability": settings.durability,
        "workers": str(settings.workers),
        "data": str(settings.data_dir),
    }
    return [f"  {name:<11} {value}" for name, value in rows.items()]


def _curl(url: str, settings: Settings) -> str:
    reachable = url.replace("//0.0.0.0", "//127.0.0.1").replace("//[::]", "//[::1]")
    secret = settings.all_keys()[0].secret
    return f"curl -u '{secret}:' {reachable}/api/v1/segment -d '{_EXAMPLE}'"
