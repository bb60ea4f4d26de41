"""Dead letters sent again to the sinks that refused them, and deleted where they were taken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segsrv.commands.letter_selection import Selection, sink_of
from segsrv.commands.output import Bar, counted
from segsrv.commands.sending import Event
from segsrv.commands.targets import Targets
from segsrv.errors import SinkMisconfigured, SinkUnavailable
from segsrv.journal import letters
from segsrv.journal.facts import UNKNOWN, Facts
from segsrv.journal.letters import SINK_REASON, Letter, Span

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
        sender = await self._targets.sender(name)

        def on_taken(numbers: Sequence[int]) -> None:
            self._delivered += [waiting.spans[number] for number in numbers]
            self.result.delivered += len(numbers)

        refused = await sender.send(waiting.events, on_taken)
        self.result.refused += len(refused)
        for event in refused[: NOTES_MAX - len(self.result.messages)]:
            self.result.messages.append(f"{name}: {event.message}")

    def _sink_of(self, letter: Letter) -> str | None:
        """Return where the letter goes; None, counted, if it stays."""
        if letter.text("reason") != SINK_REASON:
            self.result.of_ingest += 1
            return None
        name = self._target or sink_of(letter)
        if name not in self._targets:
            self.result.without_sink += 1
            return None
        return name


@dataclass(slots=True)
class _Waiting:
    """Events for the next batch of one sink, and where their letters stand."""

    events: list[Event] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    bytes: int = 0

    def add(self, letter: Letter) -> None:
        line = letter.item()
        self.events.append(Event(line, _facts(letter, len(line))))
        self.spans.append((letter.start, letter.end))
        self.bytes += len(line)


def _facts(letter: Letter, size: int) -> Facts:
    item = letter.fields.get("item")
    event = item if isinstance(item, dict) else {}
    tracker = event.get("eventn_ctx")
    event_id = event.get("eventn_ctx_event_id") or (
        tracker.get("event_id") if isinstance(tracker, dict) else None
    )
    return Facts(
        letter.text("key_id") or UNKNOWN,
        letter.text("format") or UNKNOWN,
        letter.time_ms,
        str(event.get("event_type") or UNKNOWN),
        size,
        str(event_id or UNKNOWN),
    )
