"""The command line: what can be said, and how it ends. Each command is a module of `commands`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from segsrv.commands import check, dead_letter, geoip, journal, keys, serve, status, tail, trying
from segsrv.errors import SegsrvError, SettingsError

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
    for command in (serve, check, trying, status, tail, keys, journal, dead_letter, geoip):
        command.add_to(commands)
    return parser
