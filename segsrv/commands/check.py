"""`segsrv check`: say what would run, changing nothing."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from typing import Any

from segsrv import process
from segsrv.commands import standing
from segsrv.commands.journals import aside
from segsrv.commands.output import counted
from segsrv.commands.preflight import check_sinks, describe, verified
from segsrv.delivery.journals import folders
from segsrv.errors import DataDirUnusable
from segsrv.geoip.databases import describe as describe_databases
from segsrv.journal import segments
from segsrv.settings import Settings, sources
from segsrv.write_keys import key_path, makes_key, with_kept_key


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("check", help="say what would run", allow_abbrev=False)
    sources.add_flags(parser)
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    settings, sinks = verified(flags)
    process.check_address(settings)
    warnings = asyncio.run(check_sinks(sinks))
    try:
        warnings += _warnings(settings)
    except OSError as error:
        where = error.filename or settings.data_dir
        raise DataDirUnusable(f"{where}: can't be read: {error.strerror}") from error
    has_own_key = makes_key(settings)
    settings = with_kept_key(settings)
    lines = describe(settings, sinks)
    if has_own_key:
        when = "" if key_path(settings).exists() else " (made at the first start)"
        lines.append(f"  key file    {key_path(settings)}{when}")
    lines += [f"  database    {line}" for line in describe_databases(settings.geoip_db)]
    scheme = "https" if settings.tls_cert else "http"
    print("\n".join([f"would listen on {scheme}://{settings.host}:{settings.port}", *lines]))
    for warning in warnings:
        print("segsrv: warning:", warning, file=sys.stderr)
    return 0


def _warnings(settings: Settings) -> Iterator[str]:
    """Yield what a server would start with all the same, but somebody should know."""
    for folder in folders(settings):
        where = folder.relative_to(settings.data_dir)
        for name in segments.find(folder).foreign:
            yield f"{where}/{name}: is no segment of a journal, and is ignored"
        if kept := aside(folder):
            pieces = counted(len(kept), "damaged or unfinished piece")
            yield f"{where}: {pieces} kept aside; `segsrv journal verify` says more"
    yield from standing.damaged_cursors(settings)
