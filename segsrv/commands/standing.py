"""Where the sinks stand: their cursors, how far behind they are, and what was set aside."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from segsrv.commands.output import Bar
from segsrv.delivery import cursor as cursors
from segsrv.delivery.cursor import Mark
from segsrv.delivery.inheritance import ANY_ID, inherit
from segsrv.delivery.journals import cursor_dir
from segsrv.delivery.set_aside import parts_of
from segsrv.files import sync_dir
from segsrv.journal.survey import Survey
from segsrv.settings import Settings
from segsrv.sinks import registry

DELIVERED = ".delivered-"


@dataclass(slots=True)
class Lag:
    """What one sink lacks of one journal; `oldest_ms` is 0 if nothing, or it is not known."""

    sink: str
    journal: str
    mark: Mark
    events: int = 0
    bytes: int = 0
    oldest_ms: int = 0

    @property
    def seconds(self) -> float:
        """How long ago the oldest of the events was received."""
        return max(time.time() - self.oldest_ms / 1_000, 0.0) if self.oldest_ms else 0.0


class Part(NamedTuple):
    """A part of a journal that was set aside for a sink, from *start* to *end*."""

    sink: str
    folder: Path
    journal: str
    start: Mark
    end: Mark
    bytes: int
    time: str

    def survey(self) -> Survey:
        """Return what is there of it.

        Raises:
            OSError: It is gone, or can't be read.

        """
        return Survey(self.folder / self.journal)


def lags(settings: Settings, journals: Mapping[str, Survey], bar: Bar) -> list[Lag]:
    """Return what each configured sink lacks of each journal.

    Raises:
        OSError: The disk refused to read.

    """
    found = list(_standings(settings, journals))
    for name, survey in journals.items():
        _measure(survey, [lag for lag in found if lag.journal == name], bar)
    return found


def marks(settings: Settings, journals: Mapping[str, Survey], sink: str) -> dict[str, Mark]:
    """Return where a sink stands in each journal: before that it has all but what it refused."""
    return {lag.journal: lag.mark for lag in _standings(settings, journals) if lag.sink == sink}


def _standings(settings: Settings, journals: Mapping[str, Survey]) -> Iterator[Lag]:
    folder = cursor_dir(settings)
    for named in registry.resolve(settings):
        own = folder / f"{named.cursor_name}{cursors.SUFFIX}"
        known = inherit(folder, named.cursor_name, own, cursors.read(own)[0], journals)
        for name, survey in journals.items():
            journal_id, mark = known.marks.get(name, ("", Mark(0)))
            if journal_id not in (survey.id, ANY_ID):
                # As delivery does: one of another journal means all that is held.
                mark = Mark(survey.first)
            yield Lag(named.name, name, mark)


def _measure(survey: Survey, waiting: Sequence[Lag], bar: Bar) -> None:
    start = min((lag.mark.position for lag in waiting), default=survey.end)
    at = max(start, survey.first)
    for frame in survey.summaries(start):
        for lag in waiting:
            if frame.end <= lag.mark.position:
                continue
            skip = lag.mark.skip if frame.position == lag.mark.position else 0
            lag.events += frame.events - skip
            lag.bytes += frame.end - frame.position
            if not lag.oldest_ms and frame.events and (runs := frame.runs):
                lag.oldest_ms = runs[0].received_ms
        bar.add(frame.end - at)
        at = frame.end


def damaged_cursors(settings: Settings) -> Iterator[str]:
    """Yield a line for each cursor that can't be read as a whole."""
    folder = cursor_dir(settings)
    if not folder.is_dir():
        return
    for path in sorted(folder.glob(f"*{cursors.SUFFIX}")):
        newest, _older, damaged = cursors.read(path)
        if damaged:
            what = "the one before is used" if newest else "what is held is delivered again"
            yield f"state/{folder.name}/{path.name}: damaged, {what}"


def parts(settings: Settings) -> list[Part]:
    """Return what was set aside for any sink, the oldest of each first."""
    root = set_aside_dir(settings)
    if not root.is_dir():
        return []
    names = {named.cursor_name: named.name for named in registry.resolve(settings)}
    return [
        _part(names.get(folder.name, folder.name), path, fields)
        for folder in sorted(root.iterdir())
        if not folder.name.startswith(DELIVERED)
        for path, fields in parts_of(folder)
    ]


def set_aside_dir(settings: Settings) -> Path:
    """Return the folder of all that was set aside."""
    return settings.data_dir / "set-aside"


def delete(part: Part) -> None:
    """Delete what was set aside; first it goes where neither a server nor a command looks."""
    folder = part.folder
    leaving = folder.parent.parent / f"{DELIVERED}{folder.parent.name}-{folder.name}"
    try:
        folder.rename(leaving)
    except FileNotFoundError:
        # The server made room just now.
        return
    sync_dir(folder.parent)
    shutil.rmtree(leaving)


def finish_deleting(settings: Settings) -> None:
    """Delete what an earlier command that was killed left of parts."""
    for left in set_aside_dir(settings).glob(f"{DELIVERED}*"):
        shutil.rmtree(left)


def _part(sink: str, folder: Path, fields: Mapping[str, Any]) -> Part:
    return Part(
        sink,
        folder,
        str(fields["journal"]),
        Mark(*fields["start"]),
        Mark(*fields["end"]),
        int(fields["bytes"]),
        str(fields["time"]),
    )
