"""`segsrv tail`: what arrives right now, and what is refused, in a terminal."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from segsrv.commands.journals import folders
from segsrv.commands.output import harmless, print_json
from segsrv.commands.parts import add_common_flags, guarded, load
from segsrv.live.events import JournalFollower, shown
from segsrv.live.letters import LettersFollower
from segsrv.live.reports import RefusalsFollower, Reports
from segsrv.settings import Settings

POLL_S = 0.25
SHOWN_MAX = 50
"""Lines a poll; nobody reads faster, and the rest is counted."""
LINE_CHARS_MAX = 300

Item = Mapping[str, Any]


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
    settings = load(flags)
    tail = Tail(settings, flags)
    show = _print_json if flags.is_json else _print_text
    tail.turn(show, shown_max=max(flags.lines, 0))
    if not tail.is_running:
        print("segsrv: no server runs on this data directory", file=sys.stderr)
    while True:
        sys.stdout.flush()
        time.sleep(POLL_S)
        tail.turn(show, shown_max=SHOWN_MAX)


class Tail:
    """Follows all that a data directory tells."""

    def __init__(self, settings: Settings, wanted: argparse.Namespace) -> None:
        self._settings = settings
        self._wanted = wanted
        self._journals: dict[str, JournalFollower] = {}
        self._letters = LettersFollower(settings.data_dir / "dead-letter")
        self._reports = Reports(settings.data_dir)
        self._refusals = RefusalsFollower()

    @property
    def is_running(self) -> bool:
        """Whether a server said lately that it is there."""
        return bool(self._reports.by_name)

    def turn(self, show: Callable[[Item], None], *, shown_max: int) -> None:
        """Show what is new, the newest *shown_max* of it.

        Raises:
            OSError: A disk refused to read.

        """
        self._reports.read()
        found, passed_over = ([], 0) if self._wanted.refused else self._events(shown_max)
        refused = [*self._refusals.read(self._reports), *self._letters.read()]
        found += [item for item in refused if self._is_wanted(item)]
        found.sort(key=lambda item: item["at_ms"])
        passed_over += max(len(found) - shown_max, 0)
        if passed_over and shown_max == SHOWN_MAX:
            show({"kind": "passed_over", "events": passed_over})
        for item in found[-shown_max:] if shown_max else ():
            show(item)

    def _events(self, events_max: int) -> tuple[list[Item], int]:
        found: list[Item] = []
        passed_over = 0
        for folder in folders(self._settings):
            follower = self._journals.setdefault(folder.name, JournalFollower(folder))
            followed = follower.read(max(events_max, 1))
            found += [item for each in followed.events if self._is_wanted(item := shown(each))]
            passed_over += followed.passed_over
        return found, passed_over

    def _is_wanted(self, item: Item) -> bool:
        wanted = self._wanted
        if wanted.key is not None and item.get("key") != wanted.key:
            return False
        if item["kind"] != "event":
            return wanted.refused or (wanted.type is None and wanted.event is None)
        if wanted.type is not None and item["type"] != wanted.type:
            return False
        return wanted.event is None or item["event"].get("event") == wanted.event


def _print_json(item: Item) -> None:
    print_json(item)


def _print_text(item: Item) -> None:
    if item["kind"] == "passed_over":
        print(f"... {item['events']:,} more")
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
