"""What a server would run, found out without changing anything; `serve` and `check` begin here."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from segsrv.delivery.journals import journal_dir
from segsrv.errors import DataDirUnusable, SegsrvError, SinkUnavailable
from segsrv.files import obstacle
from segsrv.geoip.databases import describe as describe_databases
from segsrv.http.analytics_js import AnalyticsJs
from segsrv.http.auth import Keyring
from segsrv.http.cors import Cors
from segsrv.ops.token import token_path
from segsrv.settings import Settings, sources
from segsrv.sinks import registry
from segsrv.sinks.registry import Built
from segsrv.tls import Certificate
from segsrv.transform.configured import check_functions, names_of
from segsrv.write_keys import KeySource, key_path, with_file_keys, with_kept_key


def verified(flags: argparse.Namespace) -> tuple[Settings, list[Built]]:
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
    check_functions(settings, [built.config for built in sinks])
    describe_databases(settings.geoip_db)
    AnalyticsJs(settings, Keyring(keys), Cors(keys))
    if settings.tls_cert is not None and settings.tls_key is not None:
        Certificate(settings.tls_cert, settings.tls_key)
    return settings, sinks


def key_source(flags: argparse.Namespace, settings: Settings) -> KeySource:
    """Return where the keys of *settings*, which `verified` returned, can be read again.

    It reads what `verified` read.
    """
    given, environ = vars(flags), dict(os.environ)

    def read() -> Settings:
        return sources.load(given, environ)

    path = sources.config_path(given, environ)
    return KeySource.of(read, settings, [path] if path is not None else [])


async def check_sinks(sinks: Sequence[Built]) -> list[str]:
    """Ask all of *sinks* at once whether they could be opened; return their warnings.

    Raises:
        SegsrvError: One could not; the text says which and why, on one line. If several could not,
            the others' lines are printed before.

    """
    found = await asyncio.gather(*map(_check_sink, sinks), return_exceptions=True)
    warnings, errors = [], []
    for result in found:
        if isinstance(result, SegsrvError):
            errors.append(result)
        elif isinstance(result, BaseException):
            raise result
        else:
            warnings += result
    if errors:
        for error in errors[:-1]:
            print("segsrv:", " ".join(str(error).splitlines()), file=sys.stderr)
        raise errors[-1]
    return warnings


async def _check_sink(built: Built) -> list[str]:
    where, timeout_s = built.config.where, built.config.send_timeout_s
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            return list(await built.sink.check() or ())
    except SegsrvError:
        raise
    except Exception as error:  # noqa: BLE001 - Whatever a stranger's code raises.
        if limit.expired():
            raise SinkUnavailable(f"{where}: no answer within {timeout_s:g} s") from None
        raise SinkUnavailable(f"{where}: check failed with {registry.fault(error)}") from None
    finally:
        await built.sink.close()


def describe(settings: Settings, sinks: Sequence[Built]) -> list[str]:
    """Say what runs, without secrets."""
    rows = {
        "formats": (
            "flat at /api/v1/segment, compat at /api/v1/segment/compat, "
            "segment at /api/v1/segment/raw"
        ),
        "keys": ", ".join(key.id for key in settings.all_keys()) or "none yet",
        "sinks": ", ".join(f"{built.name} ({built.sink.describe()})" for built in sinks),
        "geoip": ", ".join(map(str, settings.geoip_db)) or "none",
        "durability": settings.durability,
        "workers": str(settings.workers),
        "data": str(settings.data_dir),
    }
    if functions := names_of(settings, [built.config for built in sinks]):
        rows["transform"] = ", ".join(functions)
    if settings.ops_listen:
        rows["ops"] = f"http://{settings.ops_listen}"
        rows["live page"] = f"http://{settings.ops_listen}/live"
        rows["ops token"] = str(token_path(settings))
    return [f"  {name:<11} {value}" for name, value in rows.items()]


def _why(blocked: Path) -> str:
    """Return what the system would say to one who writes below *blocked*."""
    if not blocked.is_dir():
        return os.strerror(errno.ENOTDIR)
    is_read_only = os.statvfs(blocked).f_flag & os.ST_RDONLY
    return os.strerror(errno.EROFS if is_read_only else errno.EACCES)
