"""`segsrv dead-letter list|show|replay|purge`: what could not be stored or was refused."""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import asdict, dataclass
from typing import Any

from segsrv.commands import times
from segsrv.commands.letter_replay import replay
from segsrv.commands.letter_selection import Selection, sink_of
from segsrv.commands.output import (
    Bar,
    counted,
    harmless,
    moment,
    print_json,
    print_pretty,
    print_table,
    size,
)
from segsrv.commands.parts import add_common_flags, check_user, guarded, load
from segsrv.commands.targets import Targets
from segsrv.errors import SettingsError
from segsrv.journal import letters
from segsrv.journal.letters import Letter, Span

HEADERS = ("reason", "sink", "key", "format", "letters", "bytes", "oldest", "newest")
GROUPS_MAX = 10_000


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the commands to the parser."""
    dead_letter = commands.add_parser(
        "dead-letter", help="events that could not be stored, or that a sink refused"
    ).add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("list", run_list, "count dead letters by reason, sink, key and format"),
        ("show", run_show, "print dead letters; their events hold the api_key as stored"),
        ("replay", run_replay, "send events to the sink that refused them again"),
        ("purge", run_purge, "delete dead letters"),
    ):
        parser = dead_letter.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_common_flags(parser)
        parser.add_argument(
            "--sink", dest="sink_name", metavar="NAME", help="only letters of this sink"
        )
        parser.add_argument("--reason", metavar="REASON", help="only letters with this reason")
        times.add_flags(parser)
        if name == "show":
            parser.add_argument("--limit", type=int, metavar="N", help="print at most N letters")
            parser.add_argument(
                "--pretty", action="store_true", help="for reading, one field a line"
            )
        else:
            parser.add_argument("--json", action="store_true", dest="is_json", help="for scripts")
        if name == "replay":
            parser.add_argument(
                "--to", dest="target", metavar="NAME", help="send to this sink instead"
            )
        if name == "purge":
            parser.add_argument("--yes", action="store_true", help="delete, do not only count")
        parser.set_defaults(run=guarded(run))


def run_list(flags: argparse.Namespace) -> int:
    """Count the letters by reason, sink, key and format."""
    selection = Selection.of(flags, load(flags))
    counts: dict[tuple[str, str, str, str], Count] = {}
    found = selection.files()
    with Bar("dead letters", sum(file_bytes for _path, file_bytes in found)) as bar:
        for path, file_bytes in found:
            for letter in selection.read(path):
                group = (
                    letter.text("reason"),
                    sink_of(letter),
                    selection.key_of(letter),
                    letter.text("format"),
                )
                if group not in counts and len(counts) >= GROUPS_MAX:
                    group = ("other", "", "", "")
                counts.setdefault(group, Count()).add(letter)
            bar.add(file_bytes)
    rows = sorted(counts.items())
    if flags.is_json:
        for group, count in rows:
            print_json(dict(zip(HEADERS, (*group, *count.values()), strict=True)))
    elif rows:
        print_table(HEADERS, [(*group, *count.cells()) for group, count in rows])
    else:
        print("no dead letters")
    return 0


def run_show(flags: argparse.Namespace) -> int:
    """Print the letters as they are stored, the oldest of each file first."""
    if flags.limit is not None and flags.limit < 1:
        raise SettingsError(f"--limit={flags.limit}: expected at least 1")
    selection = Selection.of(flags, load(flags))
    found = (letter for path, _bytes in selection.files() for letter in selection.read(path))
    is_terminal = sys.stdout.isatty()
    for letter in itertools.islice(found, flags.limit):
        if flags.pretty:
            print_pretty(letter.fields)
        elif is_terminal:
            print(harmless(letter.line.decode("utf-8", "replace")))
        else:
            sys.stdout.buffer.write(letter.line + b"\n")
    return 0


def run_purge(flags: argparse.Namespace) -> int:
    """Delete the letters; beside a running server none that it writes meanwhile is lost."""
    selection = Selection.of(flags, load(flags))
    count = Count()
    with letters.exclusive(selection.directory):
        found = selection.files()
        with Bar("dead letters", sum(file_bytes for _path, file_bytes in found)) as bar:
            for path, file_bytes in found:
                spans: list[Span] = []
                for letter in selection.read(path, letters.settled_bytes(path)):
                    count.add(letter)
                    spans.append((letter.start, letter.end))
                if flags.yes and spans:
                    letters.remove(path, letters.joined(spans))
                bar.add(file_bytes)
    if not flags.yes and count.letters:
        raise SettingsError(
            f"purge would delete {counted(count.letters, 'letter')} ({size(count.bytes)}); "
            "--yes does it"
        )
    if flags.is_json:
        print_json({"deleted": count.letters, "bytes": count.bytes})
    else:
        print(f"deleted {counted(count.letters, 'letter')} ({size(count.bytes)})")
    return 0


def run_replay(flags: argparse.Namespace) -> int:
    """Send letters to their sinks again and delete those that were taken."""
    settings = load(flags)
    selection = Selection.of(flags, settings)
    check_user(settings)
    targets = Targets(settings)
    result = replay(selection, targets, flags.target)
    if flags.is_json:
        print_json(asdict(result), targets.report_to)
    else:
        line = f"delivered {counted(result.delivered, 'event')} and deleted the letters"
        print(line, file=targets.report_to)
    for line in result.notes():
        print(f"segsrv: {line}", file=sys.stderr)
    return 1 if result.refused else 0


@dataclass(slots=True)
class Count:
    """Letters that have something in common."""

    letters: int = 0
    bytes: int = 0
    oldest_ms: int = 0
    newest_ms: int = 0

    def add(self, letter: Letter) -> None:
        time_ms = letter.time_ms
        self.letters += 1
        self.bytes += letter.end - letter.start
        self.oldest_ms = min(self.oldest_ms or time_ms, time_ms)
        self.newest_ms = max(self.newest_ms, time_ms)

    def values(self) -> tuple[int, int, str | None, str | None]:
        return self.letters, self.bytes, moment(self.oldest_ms), moment(self.newest_ms)

    def cells(self) -> tuple[int, str, str | None, str | None]:
        return self.letters, size(self.bytes), moment(self.oldest_ms), moment(self.newest_ms)
