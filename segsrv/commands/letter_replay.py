"""Dead letters sent again to the sinks that refused them, and deleted where they were taken."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from segsrv.commands.letter_selection import Selection, sink_of
from segsrv.commands.output import Bar, counted
from segsrv.commands.sending import Event
from segsrv.commands.targets import Targets
from segsrv.errors import SinkMisconfigured, SinkUnavailable
from segsrv.journal import letters
from segsrv.journal.facts import UNKNOWN, Facts
from segsrv.journal.letters import SINK_REASON, TRANSFORM_REASONS, Letter, Span
from segsrv.transform.identity import SEGMENT, id_of

NOTES_MAX = 10


@dataclass(slots=True)
class Result:
    """Counts of events, and why the first few were refused."""

    delivered: int = 0
    refused: int = 0
    of_ingest: int = 0
    without_sink: int = 0
    messages: list[str] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        """Yield a line for each thing that is left to do."""
        yield from self.messages
        if self.refused:
            yield f"refused again, and kept: {counted(self.refused, 'letter')}"
        if self.without_sink:
            yield (
                f"of a sink that is not configured: {counted(self.without_sink, 'letter')}; "
                "--to NAME sends them to another"
            )
        if self.of_ingest:
            yield (
                f"never were events: {counted(self.of_ingest, 'letter')}; "
                "mend what `segsrv dead-letter show` prints, and post it"
            )


def replay(selection: Selection, targets: Targets, target: str | None) -> Result:
    """Send what *selection* has to its sinks, or all to *target*.

    Letters are deleted file by file, once all of a file were tried: after a crash in between they
    are sent again.

    Raises:
        SettingsError: There is no such sink.
        SinkUnavailable: A sink could not be reached; what was taken before is deleted.

    """
    if target is not None:
        targets.check("--to", target)
    return asyncio.run(_replay(selection, targets, target))


async def _replay(selection: Selection, targets: Targets, target: str | None) -> Result:
    replaying = _Replay(selection, targets, target)
    result = replaying.result
    try:
        with letters.exclusive(selection.directory):
            found = selection.files()
            with Bar("dead letters", sum(file_bytes for _path, file_bytes in found)) as bar:
                for path, file_bytes in found:
                    await replaying.run(path)
                    bar.add(file_bytes)
    except (SinkUnavailable, SinkMisconfigured) as error:
        done = f"delivered before, and their letters deleted: {counted(result.delivered, 'event')}"
        raise type(error)(f"{error}; {done}") from error
    finally:
        await targets.close()
    return result


class _Replay:
    """Goes through files, and collects the events of each sink for its next batch."""

    def __init__(self, selection: Selection, targets: Targets, target: str | None) -> None:
        self.result = Result()
        self._selection = selection
        self._targets = targets
        self._target = target
        self._waiting: dict[str, _Waiting] = {}
        self._delivered: list[Span] = []

    async def run(self, path: Path) -> None:
        """Send the letters of one file, and delete those that were taken, whatever happens."""
        self._waiting, self._delivered = {}, []
        try:
            for letter in self._selection.read(path, letters.settled_bytes(path)):
                name = self._sink_of(letter)
                if name is None:
                    continue
                waiting = self._waiting.setdefault(name, _Waiting())
                waiting.add(letter)
                limits = self._targets.limits(name)
                if (
                    len(waiting.spans) >= limits.batch_events_max
                    or waiting.bytes >= limits.batch_bytes_max
                ):
                    await self._flush(name)
            for name in tuple(self._waiting):
                await self._flush(name)
        finally:
            if self._delivered:
                letters.remove(path, letters.joined(self._delivered))

    async def _flush(self, name: str) -> None:
        """Send what waits for a sink."""
        waiting = self._waiting.pop(name)
        made = await self._made(name, waiting)
        left = Counter(number for _event, number in made)
        self._taken(waiting, [n for n in range(len(waiting.spans)) if n not in left], waiting.bad)

        def on_taken(numbers: Sequence[int]) -> None:
            done = []
            for number in numbers:
                origin = made[number][1]
                left[origin] -= 1
                if not left[origin]:
                    done.append(origin)
            self._taken(waiting, done, {})

        sender = await self._targets.sender(name)
        refused = await sender.send([event for event, _number in made], on_taken)
        # A letter of which a part was taken stays: nothing is lost, and that part is sent again.
        messages = {made[event.number][1]: event.message for event in refused} | waiting.bad
        self.result.refused += len(messages)
        for _number, message in sorted(messages.items())[: NOTES_MAX - len(self.result.messages)]:
            self.result.messages.append(f"{name}: {message}")

    def _taken(self, waiting: _Waiting, numbers: Sequence[int], bad: Container[int]) -> None:
        done = [number for number in numbers if number not in bad]
        self._delivered += [waiting.spans[number] for number in done]
        self.result.delivered += len(done)

    async def _made(self, name: str, waiting: _Waiting) -> list[tuple[Event, int]]:
        """Return the events to be sent, each with the number of its letter.

        Functions see those that they were to see and failed at; what a sink refused has been
        through them.
        """
        transformer = self._targets.transformer(name)
        numbers = sorted(waiting.untransformed) if transformer is not None else []
        if transformer is None or not numbers:
            return [(event, number) for number, event in enumerate(waiting.events)]
        events = [waiting.events[number] for number in numbers]
        done = await transformer.apply(
            [event.line for event in events], [event.facts for event in events]
        )
        waiting.bad = {numbers[fault.number]: fault.message for fault in done.faults}
        made = [
            (event, number)
            for number, event in enumerate(waiting.events)
            if number not in waiting.untransformed
        ]
        for line, fact, origin in zip(done.lines, done.facts, done.origins, strict=True):
            made.append((Event(line, fact), numbers[origin]))
        return sorted(made, key=itemgetter(1))

    def _sink_of(self, letter: Letter) -> str | None:
        """Return where the letter goes; None, counted, if it stays."""
        if letter.text("reason") not in {SINK_REASON, *TRANSFORM_REASONS}:
            self.result.of_ingest += 1
            return None
        name = self._target or sink_of(letter)
        if name not in self._targets:
            self.result.without_sink += 1
            return None
        return name


@dataclass(slots=True)
class _Waiting:
    """Events for the next batch of one sink, and where their letters stand.

    `bad` says by number why a function failed at an event again.
    """

    events: list[Event] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    untransformed: set[int] = field(default_factory=set)
    bad: dict[int, str] = field(default_factory=dict)
    bytes: int = 0

    def add(self, letter: Letter) -> None:
        line = letter.item()
        if letter.text("reason") in TRANSFORM_REASONS:
            self.untransformed.add(len(self.events))
        self.events.append(Event(line, _facts(letter, len(line))))
        self.spans.append((letter.start, letter.end))
        self.bytes += len(line)


def _facts(letter: Letter, size: int) -> Facts:
    item, output = letter.fields.get("item"), letter.text("format")
    event = item if isinstance(item, dict) else {}
    return Facts(
        letter.text("key_id") or UNKNOWN,
        output or UNKNOWN,
        letter.time_ms,
        str(event.get("type" if output == SEGMENT else "event_type") or UNKNOWN),
        size,
        id_of(event, output) or UNKNOWN,
    )
