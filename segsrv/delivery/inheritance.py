"""What a delivery takes over from others that fed the same sink: where they stood."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from segsrv.delivery import cursor as cursors
from segsrv.delivery.cursor import Cursor, Mark, Span

logger = logging.getLogger(__name__)

ANY_ID = "*"
"""In place of a journal's id, where a cursor was written that knew none."""


@dataclass(slots=True)
class Inheritance:
    """Marks by the journal's name, with the journal's id, and what was being sent, in order.

    `others` are cursors of other writers that said so and are gone, and `shared` those that speak
    for journals of other processes as well, which may be at their files.
    """

    marks: dict[str, tuple[str, Mark]] = field(default_factory=dict)
    sending: list[Cursor] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    others: list[Cursor] = field(default_factory=list)
    shared: list[Cursor] = field(default_factory=list)

    def add(self, cursor: Cursor) -> None:
        """Take *cursor* over for the journals that are not known yet, or less far."""
        is_news = False
        for name, span in cursor.spans.items():
            known = self.marks.get(name)
            if known is None or (known[0] == span.journal_id and known[1] < span.start):
                self.marks[name] = (span.journal_id, span.start)
                is_news = is_news or span.end != span.start
        if is_news:
            self.sending.append(cursor)

    def settle(self) -> None:
        """Leave out what was being sent where another cursor has gone on since.

        What is left of such a batch is no batch that a sink knows, and begins again.
        """
        self.sending = [
            cursor
            for cursor in self.sending
            if all(
                self.marks.get(name) == (span.journal_id, span.start)
                for name, span in cursor.spans.items()
                if span.end != span.start
            )
        ]

    def go_on(self, marks: dict[str, tuple[str, Mark]]) -> None:
        """Go on from *marks*, each with its journal's id."""
        self.marks |= marks
        self.settle()

    def forget(self) -> None:
        """Delete the files that said so; what they say is in the cursor by now."""
        for path in self.files:
            path.unlink(missing_ok=True)


def inherit(
    folder: Path, name: str, own: Path, cursor: Cursor | None, journals: Collection[str]
) -> Inheritance:
    """Return where the sink *name* stands in *journals*: by its own *cursor*, or by others'.

    Others' are those of servers that had a cursor a journal, `<journal>-<sink>.json` one folder up,
    and those of applications that were mounted in several processes, `<sink>@<journal>.cursor`.
    """
    inherited = Inheritance()
    if cursor is not None:
        inherited.add(cursor)
    for path in sorted([folder / f"{name}{cursors.SUFFIX}", *_mounted(folder, name)]):
        if path == own or not path.exists():
            continue
        newest, _older, _damaged = cursors.read(path)
        if newest is None:
            continue
        spans = {journal: span for journal, span in newest.spans.items() if journal in journals}
        is_whole = len(spans) == len(newest.spans)
        if newest.placement and not newest.is_sending:
            if is_whole:
                inherited.others.append(newest)
            elif spans and not newest.placement.get("cut"):
                inherited.shared.append(newest)
        if is_whole:
            inherited.add(newest)
            inherited.files.append(path)
        else:
            # The rest is another process's. What was being sent can't be sent in two parts as it
            # was, so each begins again where it began.
            settled = {key: span._replace(end=span.start) for key, span in spans.items()}
            inherited.add(Cursor(settled, {}))
    for journal in journals:
        path = folder.parent / f"{journal}-{name}.json"
        if (old := _old_cursor(path, journal)) is not None:
            inherited.add(old)
        if path.exists():
            inherited.files.append(path)
    inherited.settle()
    return inherited


def in_hand(cursor: Cursor | None, marks: dict[str, tuple[str, Mark]]) -> Inheritance | None:
    """Return what *cursor* says is being sent, where *marks* have not gone on since."""
    inherited = Inheritance(marks, [cursor] if cursor is not None and cursor.is_sending else [])
    inherited.settle()
    return inherited if inherited.sending else None


def _mounted(folder: Path, name: str) -> Iterator[Path]:
    pattern = re.compile(re.escape(name) + r"@w\d+" + re.escape(cursors.SUFFIX))
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if pattern.fullmatch(path.name))


def _old_cursor(path: Path, journal: str) -> Cursor | None:
    try:
        match json.loads(path.read_text("utf-8")):
            case {"start": int(start), "end": int(end), "placement": dict(placement)} if (
                0 <= start <= end
            ):
                return Cursor({journal: Span(ANY_ID, Mark(start), Mark(end))}, placement)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        pass
    logger.error("cursor: damaged, delivering again what is held file=%s", path.name)
    return None
