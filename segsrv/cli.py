"""The command line: `segsrv serve`, `segsrv check`, `segsrv geoip download`."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from segsrv import logs, process
from segsrv.delivery.journals import journal_dir
from segsrv.errors import DataDirUnusable, SegsrvError, SettingsError, SinkUnavailable
from segsrv.files import obstacle
from segsrv.geoip import download
from segsrv.geoip.databases import describe as describe_databases
from segsrv.http.analytics_js import AnalyticsJs
from segsrv.http.auth import Keyring
from segsrv.http.cors import Cors
from segsrv.settings import Settings, sources
from segsrv.sinks import registry
from segsrv.sinks.registry import Built
from segsrv.sinks.stdout import StdoutSink
from segsrv.tls import Certificate
from segsrv.write_keys import key_path, with_file_keys, with_kept_key

_EXAMPLE = (
    '{"type":"track","event":"Hello","userId":"u1","context":{"ip":"81.2.69.142","userAgent":'
    '"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}}'
)


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, and no more, as wrong settings do."""

    def error(self, message: str) -> NoReturn:
        hint = "expected a value; one that begins with - is written as --flag=VALUE"
        line = message.replace("expected one argument", hint)
        raise SettingsError(line.removeprefix("argument "))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    try:
        flags, unknown = _parser().parse_known_args(arguments)
        if unknown:
            raise SettingsError(_no_such(unknown[0]))
        status: int = flags.run(flags)
    except SegsrvError as error:
        print("segsrv:", " ".join(str(error).splitlines()), file=sys.stderr)
        return error.exit_code
    return status


def _no_such(argument: str) -> str:
    """Say what *argument* is without what may be a secret: the value of a flag, mistyped or not."""
    name = argument.partition("=")[0]
    if name.startswith("--") and name.isprintable():
        return f"{name}: there is no such flag"
    return "there is an argument that belongs to no flag; each takes one value"


def _parser() -> argparse.ArgumentParser:
    from segsrv import __version__  # noqa: PLC0415 - the package imports this module's siblings.

    parser = _Parser(
        prog="segsrv", description="Segment-compatible event ingest.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"segsrv {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="take events in", allow_abbrev=False)
    sources.add_flags(serve)
    serve.set_defaults(run=_serve)
    check = commands.add_parser("check", help="say what would run", allow_abbrev=False)
    sources.add_flags(check)
    check.set_defaults(run=_check)
    geoip = commands.add_parser("geoip", help="GeoIP databases").add_subparsers(
        required=True, metavar="COMMAND"
    )
    fetch = geoip.add_parser("download", help="fetch a database", allow_abbrev=False)
    download.add_flags(fetch)
    fetch.set_defaults(run=download.run)
    return parser


def _serve(flags: argparse.Namespace) -> int:
    settings, sinks = _verified(flags)
    logs.configure(settings.log_level)
    has_own_key = not settings.all_keys()
    # An earlier start that failed may have made the key, but it told nobody.
    is_first_start = has_own_key and not journal_dir(settings).exists()

    def announce(url: str, settings: Settings) -> None:
        lines = [f"segsrv listening on {url}", *_describe(settings, sinks)]
        if has_own_key:
            lines.append(f"  key file    {key_path(settings)}")
        if is_first_start:
            lines += ["", "A write key was made. Try it:", "", _curl(url, settings)]
        # Where events go to the standard output, nothing else does.
        is_taken = any(isinstance(built.sink, StdoutSink) for built in sinks)
        print("\n".join(lines), flush=True, file=sys.stderr if is_taken else sys.stdout)

    return process.serve(settings, announce)


def _check(flags: argparse.Namespace) -> int:
    settings, sinks = _verified(flags)
    process.check_address(settings)
    asyncio.run(_check_sinks(sinks))
    has_own_key = not settings.all_keys()
    settings = with_kept_key(settings)
    lines = _describe(settings, sinks)
    if has_own_key:
        when = "" if settings.all_keys() else " (made at the first start)"
        lines.append(f"  key file    {key_path(settings)}{when}")
    lines += [f"  database    {line}" for line in describe_databases(settings.geoip_db)]
    scheme = "https" if settings.tls_cert else "http"
    print("\n".join([f"would listen on {scheme}://{settings.host}:{settings.port}", *lines]))
    return 0


def _verified(flags: argparse.Namespace) -> tuple[Settings, list[Built]]:
    """Return the settings, with the keys of their file, if a server could start with them.

    With them come their sinks, made and not opened.

    The same for `serve` and `check`, and once for all workers: what is wrong is said in one line,
    and before anything is made.
    """
    settings = with_file_keys(sources.load(vars(flags), os.environ))
    workers = [journal_dir(settings) / f"w{number}" for number in range(settings.workers)]
    for folder in (settings.data_dir, key_path(settings).parent, *workers):
        if blocked := obstacle(folder):
            raise DataDirUnusable(
                f"data_dir={settings.data_dir}: {blocked} can't be written: {_why(blocked)}"
            )
    keys = with_kept_key(settings).all_keys()
    sinks = registry.build(settings)
    describe_databases(settings.geoip_db)
    AnalyticsJs(settings, Keyring(keys), Cors(keys))
    if settings.tls_cert is not None and settings.tls_key is not None:
        Certificate(settings.tls_cert, settings.tls_key)
    return settings, sinks


def _why(blocked: Path) -> str:
    """Return what the system would say to one who writes below *blocked*."""
    if not blocked.is_dir():
        return os.strerror(errno.ENOTDIR)
    is_read_only = os.statvfs(blocked).f_flag & os.ST_RDONLY
    return os.strerror(errno.EROFS if is_read_only else errno.EACCES)


async def _check_sinks(sinks: Sequence[Built]) -> None:
    for built in sinks:
        where, timeout_s = built.config.where, built.config.send_timeout_s
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                await built.sink.check()
        except SegsrvError:
            raise
        except Exception as error:  # noqa: BLE001 - Whatever a stranger's code raises.
            if limit.expired():
                raise SinkUnavailable(f"{where}: no answer within {timeout_s:g} s") from None
            raise SinkUnavailable(f"{where}: check failed with {registry.fault(error)}") from None
        finally:
            await built.sink.close()


def _describe(settings: Settings, sinks: Sequence[Built]) -> list[str]:
    """Say what runs, without secrets."""
    rows = {
        "formats": "flat at /api/v1/segment, compat at /api/v1/segment/compat",
        "keys": ", ".join(key.id for key in settings.all_keys()) or "none yet",
        "sinks": ", ".join(f"{built.name} ({built.sink.describe()})" for built in sinks),
        "geoip": ", ".join(map(str, settings.geoip_db)) or "none",
        "durability": settings.durability,
        "workers": str(settings.workers),
        "data": str(settings.data_dir),
    }
    if settings.ops_listen:
        rows["ops"] = f"http://{settings.ops_listen}"
    return [f"  {name:<11} {value}" for name, value in rows.items()]


def _curl(url: str, settings: Settings) -> str:
    reachable = url.replace("//0.0.0.0", "//127.0.0.1").replace("//[::]", "//[::1]")
    secret = settings.all_keys()[0].secret
    return f"curl -u '{secret}:' {reachable}/api/v1/segment -d '{_EXAMPLE}'"
