"""`segsrv tail`: what arrives right now, and what is refused, in a terminal."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from segsrv.commands.output import harmless, print_json
from segsrv.commands.parts import add_common_flags, guarded, load
from segsrv.live.wanted import Wanted
from segsrv.live.watching import POLL_S, SHOWN_MAX, Item, Watcher

LINE_CHARS_MAX = 300


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    text = "show events as they are stored, and what is refused"
    parser = commands.add_parser("tail", help=text, description=text, allow_abbrev=False)
    add_common_flags(parser)
    parser.add_argument("--key", metavar="ID", help="only events of this key")
    parser.add_argument("--type", metavar="TYPE", help="only events of this type")
    parser.add_argument("--event", metavar="NAME", help="only events of this name")
    parser.add_argument(
        "--refused", action="store_true", help="only refused requests and dead letters"
    )
    parser.add_argument("--json", action="store_true", dest="is_json", help="an object a line")
    parser.add_argument(
        "--lines", type=int, default=10, metavar="N", help="begin with the last N (10)"
    )
    parser.set_defaults(run=guarded(run))


def run(flags: argparse.Namespace) -> int:
    """Print until it is interrupted, or nobody reads it any more."""
    kinds: frozenset[str] = frozenset()
    if flags.refused:
        kinds = frozenset({"refused", "letter"})
    elif flags.type or flags.event:
        # What is refused has neither.
        kinds = frozenset({"event"})
    wanted = Wanted(flags.key or "", flags.type or "", flags.event or "", kinds)
    watcher = Watcher(load(flags), wanted)
    show = print_json if flags.is_json else _print_text
    items, _left_out = watcher.turn(max(flags.lines, 0))
    if not watcher.is_running:
        print("segsrv: no server runs on this data directory", file=sys.stderr)
    while True:
        for item in items:
            show(item)
        sys.stdout.flush()
        time.sleep(POLL_S)
        items, left_out = watcher.turn(SHOWN_MAX)
        if left_out:
            items = [{"kind": "left_out", "items": left_out}, *items]


def _print_text(item: Item) -> None:
    if item["kind"] == "left_out":
        print(f"... {item['items']:,} more")
        return
    at_s, at_ms = divmod(item["at_ms"], 1_000)
    clock = f"{time.strftime('%H:%M:%S', time.localtime(at_s))}.{at_ms:03d}"
    if item["kind"] == "event":
        name = item["event"].get("event") or item["event"].get("name") or ""
        words = [item["key"], item["type"], str(name), item["id"], _user(item["event"])]
    elif item["kind"] == "refused":
        words = [item["key"] or "-", f"REFUSED {item['status']} {item['code']}", item["message"]]
        words.append(item["excerpt"])
    else:
        words = [item["key"] or "-", f"SET ASIDE {item['reason']}", item["message"]]
        words.append(item["excerpt"])
    line = "  ".join([clock, *(word.replace("\n", " ") for word in words if word)])
    print(harmless(line[:LINE_CHARS_MAX]))


def _user(event: Any) -> str:
    tracker = event.get("eventn_ctx")
    tracked = tracker.get("ids") if isinstance(tracker, dict) else None
    for holder, names in (
        (event, ("userId", "anonymousId")),
        (event.get("ids"), ("ajs_user_id", "ajs_anonymous_id")),
        (tracked, ("ajs_user_id", "ajs_anonymous_id")),
    ):
        if isinstance(holder, dict):
            for name in names:
                if isinstance(holder.get(name), str):
                    return f"user={holder[name]}"
    return ""
