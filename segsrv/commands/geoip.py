"""`segsrv geoip download`: fetch a GeoIP database."""

from __future__ import annotations

import argparse
from typing import Any

from segsrv.geoip import download


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    geoip = commands.add_parser("geoip", help="GeoIP databases").add_subparsers(
        required=True, metavar="COMMAND"
    )
    fetch = geoip.add_parser("download", help="fetch a database", allow_abbrev=False)
    download.add_flags(fetch)
    fetch.set_defaults(run=download.run)
