"""`segsrv serve`: take events in."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from segsrv import logs, process
from segsrv.commands.preflight import describe, key_source, verified
from segsrv.delivery.journals import journal_dir
from segsrv.ops.token import kept_token, token_path
from segsrv.settings import Settings, sources
from segsrv.sinks.stdout.sink import StdoutSink
from segsrv.write_keys import key_path, makes_key

_EXAMPLE = (
    '{"type":"track","event":"Hello","userId":"u1","context":{"ip":"81.2.69.142","userAgent":'
    '"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}}'
)


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("serve", help="take events in", allow_abbrev=False)
    sources.add_flags(parser)
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    settings, sinks = verified(flags)
    logs.configure(settings.log_level, settings.log_format)
    has_own_key = makes_key(settings)
    # An earlier start that failed may have made the key and the token, but it told nobody.
    has_journal = journal_dir(settings).exists()
    is_first_start = has_own_key and not has_journal
    has_new_token = bool(settings.ops_listen) and not (
        has_journal and token_path(settings).exists()
    )

    def announce(url: str, settings: Settings) -> None:
        lines = [f"segsrv listening on {url}", *describe(settings, sinks)]
        if has_own_key:
            lines.append(f"  key file    {key_path(settings)}")
        if is_first_start:
            lines += ["", "A write key was made. Try it:", "", _curl(url, settings)]
        if has_new_token:
            lines += ["", f"Sign in to the live page with: {kept_token(settings)}"]
        # Where events go to the standard output, nothing else does.
        is_taken = any(isinstance(built.sink, StdoutSink) for built in sinks)
        print("\n".join(lines), flush=True, file=sys.stderr if is_taken else sys.stdout)

    return process.serve(settings, announce, key_source(flags, settings))


def _curl(url: str, settings: Settings) -> str:
    reachable = url.replace("//0.0.0.0", "//127.0.0.1").replace("//[::]", "//[::1]")
    secret = settings.all_keys()[0].secret
    return f"curl -u '{secret}:' {reachable}/api/v1/segment -d '{_EXAMPLE}'"
