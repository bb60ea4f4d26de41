"""`segsrv check`: say what would run, changing nothing."""

from __future__ import annotations

import argparse
import asyncio

from segsrv import process
from segsrv.commands.preflight import check_sinks, describe, verified
from segsrv.geoip.databases import describe as describe_databases
from segsrv.write_keys import key_path, with_kept_key


def run(flags: argparse.Namespace) -> int:
    settings, sinks = verified(flags)
    process.check_address(settings)
    asyncio.run(check_sinks(sinks))
    has_own_key = not settings.all_keys()
    settings = with_kept_key(settings)
    lines = describe(settings, sinks)
    if has_own_key:
        when = "" if settings.all_keys() else " (made at the first start)"
        lines.append(f"  key file    {key_path(settings)}{when}")
    lines += [f"  database    {line}" for line in describe_databases(settings.geoip_db)]
    scheme = "https" if settings.tls_cert else "http"
    print("\n".join([f"would listen on {scheme}://{settings.host}:{settings.port}", *lines]))
    return 0
