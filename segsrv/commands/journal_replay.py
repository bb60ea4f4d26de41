"""`segsrv journal replay`: events that are still on disk, sent to one sink again."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from segsrv.commands import standing
from segsrv.commands.event_filter import EventFilter
from segsrv.commands.journals import surveys
from segsrv.commands.output import Bar, counted, print_json
from segsrv.commands.parts import check_user, load
from segsrv.commands.sending import Event
from segsrv.commands.standing import Part
from segsrv.commands.targets import Targets
from segsrv.delivery.cursor import Mark
from segsrv.delivery.rejects import letter_of
from segsrv.delivery.transforming import letter_of_fault
from segsrv.errors import SettingsError, SinkMisconfigured, SinkUnavailable
from segsrv.journal import facts, letters
from segsrv.journal.dead_letters import DeadLetters
from segsrv.journal.reader import Stored
from segsrv.journal.survey import UNFINISHED, Fault, Survey
from segsrv.settings import Settings
from segsrv.transform.transformer import Transformer

LETTERS = "replay"
"""The prefix of files with what a sink refuses meanwhile."""


@dataclass(slots=True)
class Result:
    """Counts of events, and of pieces that could not be read."""

    delivered: int = 0
    refused: int = 0
    faults: int = 0
    parts_deleted: int = 0


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is read of one journal."""

    survey: Survey
    end: Mark
    start: Mark = Mark(0)
    part: Part | None = None

    @property
    def first(self) -> int:
        """The position at which reading begins."""
        return max(self.survey.first, self.start.position)

    @property
    def bytes(self) -> int:
        """How much is read, but for a frame that is read in part."""
        return max(self.end.position - self.first, 0)

    @property
    def limit(self) -> int | None:
        """The position up to which whole frames are read; None where that is within one."""
        return None if self.end.skip else self.end.position

    def events(self, frame: Stored) -> Iterator[Event]:
        """Yield the events of *frame* that belong to it."""
        low = self.start.skip if frame.position == self.start.position else 0
        high = frame.events
        if frame.position >= self.end.position:
            high = self.end.skip if frame.position == self.end.position else 0
        offset = 0
        for number, known in enumerate(facts.each(frame.runs)):
            if low <= number < high:
                yield Event(bytes(frame.payload[offset : offset + known.length]), known)
            offset += known.length


def run_replay(flags: argparse.Namespace) -> int:
    """Send what is selected; ends with 1 if something of it could not be delivered."""
    settings = load(flags)
    check_user(settings)
    chosen = EventFilter.of(flags)
    targets = Targets(settings)
    targets.check("--sink", flags.sink_name)
    replay = _Replay(settings, targets, flags.sink_name, chosen)
    if flags.is_set_aside:
        if chosen:
            raise SettingsError("--set-aside: takes no other filter; what it sends is then deleted")
        with letters.exclusive(standing.set_aside_dir(settings)):
            standing.finish_deleting(settings)
            asyncio.run(replay.run(_set_aside(settings, flags.sink_name)))
    else:
        if chosen.since_ms is None:
            raise SettingsError("--since: is needed, or --set-aside")
        asyncio.run(replay.run(_delivered(settings, flags.sink_name)))
    _print(replay.result, targets.report_to, is_json=flags.is_json)
    return 1 if replay.result.refused or replay.result.faults else 0


def _set_aside(settings: Settings, sink: str) -> list[Stretch]:
    return [
        Stretch(part.survey(), part.end, part.start, part)
        for part in standing.parts(settings)
        if part.sink == sink
    ]


def _delivered(settings: Settings, sink: str) -> list[Stretch]:
    """Return what a sink has had; what comes after its mark it gets anyway."""
    journals = surveys(settings)
    marks = standing.marks(settings, journals, sink)
    return [Stretch(journals[name], end=mark) for name, mark in marks.items()]


def _print(result: Result, file: TextIO, *, is_json: bool) -> None:
    if is_json:
        fields = ("delivered", "refused", "faults", "parts_deleted")
        print_json({name: getattr(result, name) for name in fields}, file)
    else:
        print(f"delivered {counted(result.delivered, 'event')}", file=file)
    if result.refused:
        refused = counted(result.refused, "event")
        print(f"segsrv: refused, and kept as dead letters: {refused}", file=sys.stderr)
    if result.faults:
        faults = counted(result.faults, "piece")
        print(f"segsrv: left out, damaged or deleted meanwhile: {faults}", file=sys.stderr)


class _Replay:
    """Reads stretches one after the other and sends them in batches of the sink's size."""

    def __init__(
        self, settings: Settings, targets: Targets, name: str, chosen: EventFilter
    ) -> None:
        self.result = Result()
        self._targets = targets
        self._name = name
        self._chosen = chosen
        self._limits = targets.limits(name)
        self._own = EventFilter(frozenset(self._limits.key_ids), frozenset(self._limits.types))
        self._letters = DeadLetters(
            settings.data_dir / "dead-letter",
            prefix=LETTERS,
            bytes_max=settings.dead_letter_bytes_max,
            file_mode=int(settings.file_mode, 8),
        )
        self._waiting: list[Event] = []
        self._waiting_bytes = 0

    async def run(self, stretches: Sequence[Stretch]) -> None:
        total = sum(stretch.bytes for stretch in stretches)
        try:
            with Bar("replay", total) as bar:
                for stretch in stretches:
                    await self._send_stretch(stretch, bar)
        except (SinkUnavailable, SinkMisconfigured) as error:
            done = f"delivered before: {counted(self.result.delivered, 'event')}"
            raise type(error)(f"{error}; {done}") from error
        finally:
            await self._targets.close()

    async def _send_stretch(self, stretch: Stretch, bar: Bar) -> None:
        faults = self.result.faults
        at = stretch.first
        for item in stretch.survey.frames(stretch.start.position, stretch.limit):
            if isinstance(item, Fault):
                self.result.faults += item.what != UNFINISHED
                continue
            if item.position > stretch.end.position:
                break
            for event in stretch.events(item):
                if self._chosen.has(event.facts) and self._own.has(event.facts):
                    await self._add(event)
            bar.add(item.position - at)
            bar.tell(self.result.delivered)
            at = item.position
        await self._flush()
        bar.add(max(stretch.end.position - at, 0))
        bar.tell(self.result.delivered)
        self.result.faults += stretch.survey.gone
        if stretch.part is not None and self.result.faults == faults:
            standing.delete(stretch.part)
            self.result.parts_deleted += 1

    async def _add(self, event: Event) -> None:
        self._waiting.append(event)
        self._waiting_bytes += len(event.line)
        if (
            len(self._waiting) >= self._limits.batch_events_max
            or self._waiting_bytes >= self._limits.batch_bytes_max
        ):
            await self._flush()

    async def _flush(self) -> None:
        events, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if events and (transformer := self._targets.transformer(self._name)) is not None:
            events = await self._transformed(transformer, events)
        if not events:
            return
        sender = await self._targets.sender(self._name)

        def on_taken(numbers: Sequence[int]) -> None:
            self.result.delivered += len(numbers)

        refused = await sender.send(events, on_taken)
        if refused:
            self._letters.append(
                [
                    letter_of(self._name, message, events[number].facts, events[number].line)
                    for number, message in refused
                ]
            )
            self.result.refused += len(refused)

    async def _transformed(self, transformer: Transformer, events: Sequence[Event]) -> list[Event]:
        """Return what the sink's functions make of *events*; keep what they fail at as letters."""
        lines, known = [event.line for event in events], [event.facts for event in events]
        done = await transformer.apply(lines, known)
        if done.faults:
            self._letters.append(
                [
                    letter_of_fault(self._name, fault, known[fault.number], lines[fault.number])
                    for fault in done.faults
                ]
            )
            self.result.refused += len(done.faults)
        return [Event(line, fact) for line, fact in zip(done.lines, done.facts, strict=True)]
