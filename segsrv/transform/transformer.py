"""Has one sink's events transformed: in a child, in pieces, and with the culprits set aside."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from segsrv.errors import SinkUnavailable
from segsrv.files import Version, file_version
from segsrv.journal.facts import Facts
from segsrv.transform.loading import NotLoaded
from segsrv.transform.process import Child, ChildEnded, Hello
from segsrv.transform.wire import frame

logger = logging.getLogger(__name__)

PIECE_BYTES = 256 << 10
PIECE_EVENTS = 1_000
LOOK_S = 1.0
"""How often the functions' files are looked at."""
CLOCK_NS = 20_000_000
"""A file's time of change may lag behind the clock by so much."""
BLAMELESS_ENDS_MAX = 3
"""So often a new child may end before it is at an event."""

Reason = Literal["transform_failed", "transform_timeout", "transform_exited"]
Retry = Callable[[Callable[[], Awaitable[Child]]], Awaitable[Child]]


class NoChild(SinkUnavailable):
    """Functions can't be run now; the text says why."""


class Fault(NamedTuple):
    """Why one event is set aside."""

    number: int
    reason: Reason
    message: str
    traceback: str


@dataclass(slots=True)
class Transformed:
    """What came out of the events of a batch, in order, and those that are set aside.

    `origins` has the number of the event that each line was made of.
    """

    lines: list[bytes] = field(default_factory=list)
    facts: list[Facts] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


@dataclass(slots=True)
class TransformStats:
    """Plain counters of one sink's transformations; `events` went in, `made` are more than one."""

    events: int = 0
    changed: int = 0
    dropped: int = 0
    made: int = 0
    set_aside: int = 0
    restarts: int = 0
    reloads: int = 0


class _Outcome(NamedTuple):
    """What became of an event: `made`, with ids and types, unless there is a fault."""

    made: Sequence[tuple[str, str, bytes]] | None = None
    reason: Reason = "transform_failed"
    fault: str = ""
    traceback: str = ""

    @property
    def bytes(self) -> int:
        return sum(len(line) for _id, _kind, line in self.made or ())


# A call from C into Python's own constructor would take as long as the rest.
_facts = partial(tuple.__new__, Facts)
_UNCHANGED = _Outcome()
_FULL = _Outcome(fault="more was made of its batch than there is room for")


class Transformer:
    """Runs a sink's functions over events; belongs to one event loop, one call at a time.

    Each sink has a child of its own, so that a function that loops for one holds up no other.
    *retry* makes a call until it works, with waits between, for what only a mended file can help.
    When more than *made_bytes_max* was made of one batch, events that grow are set aside.
    """

    def __init__(
        self, name: str, hello: Hello, *, timeout_s: float, made_bytes_max: int, retry: Retry
    ) -> None:
        self.name = name
        self.stats = TransformStats()
        self._hello = self._wanted = hello
        self._timeout_s = timeout_s
        self._made_bytes_max = made_bytes_max
        self._retry = retry
        self._child: Child | None = None
        self._versions: dict[str, Version | None] = {}
        self._looked_at = 0.0

    @property
    def pid(self) -> int | None:
        """The child's, if there is one."""
        return self._child.pid if self._child is not None else None

    @property
    def has_functions(self) -> bool:
        return self._hello.has_functions or self._wanted.has_functions

    def use(self, hello: Hello) -> None:
        """Have the next batch go through other functions, if they can be loaded."""
        self._wanted = hello

    async def apply(self, lines: Sequence[bytes], facts: Sequence[Facts]) -> Transformed:
        """Return what becomes of the events in *lines*."""
        await self._reload()
        concerns = {key_id: self._hello.concerns(key_id) for key_id in {f.key_id for f in facts}}
        concerned = [number for number, fact in enumerate(facts) if concerns[fact.key_id]]
        outcomes: dict[int, _Outcome] = {}
        if concerned:
            try:
                await self._run(concerned, lines, facts, outcomes)
            except BaseException:
                # In the middle of something it is good for nothing more.
                await self._end()
                raise
        self.stats.events += len(concerned)
        return self._collected(lines, facts, outcomes)

    async def close(self) -> None:
        """End the child."""
        await self._end()

    async def _run(
        self,
        concerned: Sequence[int],
        lines: Sequence[bytes],
        facts: Sequence[Facts],
        outcomes: dict[int, _Outcome],
    ) -> None:
        todo = deque(_pieces(concerned, lines))
        room = _Room(self._made_bytes_max)
        ends = 0
        while todo:
            piece = _Piece(todo.popleft(), lines, room, outcomes)
            child = await self._ready()
            is_used = bool(child.events)
            try:
                await child.work(
                    piece.request(facts),
                    len(piece.numbers),
                    timeout_s=self._timeout_s,
                    on_answer=piece.take,
                )
            except ChildEnded as error:
                self._child = None
                self.stats.restarts += 1
                logger.warning("transform: %s, started again sink=%s", error, self.name)
                at = error.event
                if at is None or not piece.answered <= at < len(piece.numbers):
                    ends += 1
                    at = None
                    if ends > BLAMELESS_ENDS_MAX:
                        # It ends before it is at anything: what stands first pays for it.
                        at, is_used = piece.answered, False
                if at is not None:
                    ends = 0
                todo.extendleft(piece.again(at, error, is_used=is_used))
            else:
                ends = 0
                if child.is_spent:
                    self.stats.restarts += 1
                    await self._end()

    def _collected(
        self,
        lines: Sequence[bytes],
        facts: Sequence[Facts],
        outcomes: Mapping[int, _Outcome],
    ) -> Transformed:
        found, stats = Transformed(), self.stats
        for number, (line, fact) in enumerate(zip(lines, facts, strict=True)):
            made, reason, fault, trace = outcomes.get(number, _UNCHANGED)
            if fault:
                stats.set_aside += 1
                found.faults.append(Fault(number, reason, fault, trace))
            elif made is None:
                found.lines.append(line)
                found.facts.append(fact)
                found.origins.append(number)
            else:
                if made:
                    stats.changed += 1
                    stats.made += len(made) - 1
                else:
                    stats.dropped += 1
                found.origins += [number] * len(made)
                key_id, output, received_ms = fact[:3]
                for event_id, kind, new_line in made:
                    found.lines.append(new_line)
                    known = (key_id, output, received_ms, kind, len(new_line), event_id)
                    found.facts.append(_facts(known))
        return found

    async def _ready(self) -> Child:
        if self._child is None:
            started_ns = time.time_ns()
            self._child = await self._retry(self._started)
            files = self._child.files
            self._versions = await asyncio.to_thread(_versions, files, started_ns)
        return self._child

    async def _started(self) -> Child:
        try:
            return await Child.start(self._hello)
        except NotLoaded as error:
            raise NoChild(f"transform={error}") from error

    async def _reload(self) -> None:
        """Replace the child where its functions have changed; keep it if they are broken."""
        wanted, child = self._wanted, self._child
        if wanted == self._hello:
            now_s = time.monotonic()
            if child is None or now_s - self._looked_at < LOOK_S:
                return
            self._looked_at = now_s
            versions = await asyncio.to_thread(_versions, child.files)
            if versions == self._versions:
                return
            # Once for each change, whatever comes of it.
            self._versions = versions
        started_ns = time.time_ns()
        try:
            new = await Child.start(wanted) if wanted.has_functions else None
        except (NotLoaded, OSError) as error:
            self._wanted = self._hello
            logger.error(  # noqa: TRY400 - The text says it all.
                "transform: not loaded again, the old one stays sink=%s error=%s", self.name, error
            )
            return
        self._hello, self._child = wanted, new
        self.stats.reloads += 1
        logger.info("transform: loaded again sink=%s", self.name)
        if child is not None:
            await child.kill()
        # Until it is known, every look finds a change.
        self._versions = {}
        self._versions = await asyncio.to_thread(_versions, new.files if new else (), started_ns)

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.kill()


@dataclass(slots=True)
class _Room:
    """What may still be made of a batch; events that do not grow need none."""

    bytes_left: int


class _Piece:
    """Events that a child is given at once, by their numbers in the batch."""

    def __init__(
        self,
        numbers: Sequence[int],
        lines: Sequence[bytes],
        room: _Room,
        outcomes: dict[int, _Outcome],
    ) -> None:
        self.numbers = numbers
        self.answered = 0
        self._lines = lines
        self._room = room
        self._outcomes = outcomes

    def request(self, facts: Sequence[Facts]) -> bytes:
        head = [facts[number][:] for number in self.numbers]
        return frame(head, b"".join(self._lines[number] for number in self.numbers))

    def take(self, answer: Sequence[Any], body: bytes) -> None:
        """Note what the child says of the next events.

        Raises:
            ValueError, LookupError, TypeError: It says nothing that could be right.

        """
        # Looked at one by one only where they may not all have room.
        room = self._room
        is_short = len(body) > room.bytes_left
        room.bytes_left -= 0 if is_short else len(body)
        numbers = self.numbers[self.answered : self.answered + len(answer)]
        for number, outcome in zip(numbers, _outcomes(answer, body), strict=True):
            if is_short:
                room.bytes_left -= outcome.bytes
                if room.bytes_left < 0 and outcome.bytes > len(self._lines[number]):
                    self._outcomes[number] = _FULL
                    continue
            self._outcomes[number] = outcome
        self.answered += len(answer)

    def again(self, at: int | None, error: ChildEnded, *, is_used: bool) -> Iterator[Sequence[int]]:
        """Yield the pieces that are to be done again, the last one first.

        *at* is the number in this piece of the event that the child was at when it ended. It is set
        aside, unless the child may have ended of what it did before: then it is tried alone.
        """
        if at is None:
            yield self.numbers[self.answered :]
            return
        if rest := [*self.numbers[self.answered : at], *self.numbers[at + 1 :]]:
            yield rest
        number = self.numbers[at]
        if error.is_late:
            self._outcomes[number] = _Outcome(None, "transform_timeout", str(error), error.trace)
        elif not is_used and at == self.answered:
            self._outcomes[number] = _Outcome(None, "transform_exited", str(error), error.trace)
        else:
            yield [number]


def _pieces(numbers: Sequence[int], lines: Sequence[bytes]) -> Iterator[Sequence[int]]:
    piece: list[int] = []
    size = 0
    for number in numbers:
        if piece and (size + len(lines[number]) > PIECE_BYTES or len(piece) >= PIECE_EVENTS):
            yield piece
            piece, size = [], 0
        piece.append(number)
        size += len(lines[number])
    if piece:
        yield piece


def _outcomes(answer: Sequence[Any], body: bytes) -> Iterator[_Outcome]:
    """Yield what a piece of an answer says of each event: unchanged, what it became, or a fault.

    Raises:
        ValueError, LookupError, TypeError: It is no answer.

    """
    start = 0
    for outcome in answer:
        if outcome == 0:
            yield _UNCHANGED
        elif isinstance(outcome, dict):
            text, trace = str(outcome["message"]), str(outcome["traceback"])
            yield _Outcome(fault=text, traceback=trace)
        else:
            made = []
            for event_id, kind, length in outcome:
                line = body[start : start + length]
                if len(line) != length or not line.endswith(b"\n"):
                    raise ValueError("not a line")
                made.append((str(event_id), str(kind), line))
                start += length
            yield _Outcome(made)
    if start != len(body):
        raise ValueError("not the lines of these events")


def _versions(files: Sequence[str], started_ns: int = 0) -> dict[str, Version | None]:
    """Return the versions of *files*; None where one may have changed since *started_ns*."""
    found = {path: file_version(Path(path)) for path in files}
    if not started_ns:
        return found
    return {
        path: version if version and version[0] < started_ns - CLOCK_NS else None
        for path, version in found.items()
    }
