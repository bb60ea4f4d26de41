"""The command line: what can be said, and how it ends. Each command is a module of `commands`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from segsrv.commands import check, dead_letter, journal, serve
from segsrv.errors import SegsrvError, SettingsError
from segsrv.geoip import download
from segsrv.settings import sources

INTERRUPTED = 128 + signal.SIGINT


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
    except KeyboardInterrupt:
        return INTERRUPTED
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
    serving = commands.add_parser("serve", help="take events in", allow_abbrev=False)
    sources.add_flags(serving)
    serving.set_defaults(run=serve.run)
    checking = commands.add_parser("check", help="say what would run", allow_abbrev=False)
    sources.add_flags(checking)
    checking.set_defaults(run=check.run)
    journal.add_to(commands)
    dead_letter.add_to(commands)
    geoip = commands.add_parser("geoip", help="GeoIP databases").add_subparsers(
        required=True, metavar="COMMAND"
    )
    fetch = geoip.add_parser("download", help="fetch a database", allow_abbrev=False)
    download.add_flags(fetch)
    fetch.set_defaults(run=download.run)
    return parser
