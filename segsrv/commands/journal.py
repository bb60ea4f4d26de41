"""`segsrv journal inspect|verify|replay`: what the journals hold; changes nothing in them."""

from __future__ import annotations

import argparse
from typing import Any

from segsrv.commands import event_filter
from segsrv.commands.inspecting import run_inspect
from segsrv.commands.journal_replay import run_replay
from segsrv.commands.parts import add_common_flags, guarded
from segsrv.commands.verifying import run_verify


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the commands to the parser."""
    journal = commands.add_parser(
        "journal", help="the events on disk, and how far the sinks are behind"
    ).add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("inspect", run_inspect, "say what is there, and how far behind each sink is"),
        ("verify", run_verify, "read every byte and say what is damaged"),
        ("replay", run_replay, "send events that are still on disk to a sink again"),
    ):
        parser = journal.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_common_flags(parser)
        parser.add_argument("--json", action="store_true", dest="is_json", help="for scripts")
        if name == "replay":
            parser.add_argument(
                "--sink", dest="sink_name", required=True, metavar="NAME", help="send to this sink"
            )
            parser.add_argument(
                "--set-aside",
                action="store_true",
                dest="is_set_aside",
                help="send what was set aside when the sink lagged too far, and delete it",
            )
        if name == "inspect":
            parser.add_argument("--segments", action="store_true", help="list the files, too")
            parser.add_argument(
                "--events", action="store_true", help="count the events by key, format and type"
            )
        if name != "verify":
            event_filter.add_flags(parser)
        parser.set_defaults(run=guarded(run))
