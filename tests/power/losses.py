"""Drives the parts of the server at random over a disk that loses power, and checks what they keep.

    python -m tests.power.losses --losses 500 --seed 1

A life is a process: it appends to the journal, ships to the file sink, syncs that and writes down
its place in a file of two slots now and then, releases what is shipped, writes dead letters, meets
disk errors, and ends at some call into `os`. Then power is lost, or only the process killed, and
the next life begins with what is left. Every failure names the seed that brings it back.
"""

import argparse
import asyncio
import contextlib
import errno
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from segsrv.delivery.cursor import Mark
from segsrv.errors import SinkUnavailable, Unavailable
from segsrv.journal.slots import SlotFile
from tests.power.disk import CALLS, SYNCS, WRITES, Disk, Killed
from tests.power.parts import Journal, Sink, kept_letters, make_letters, sent_lines

LOSSES_A_SEED = 10
CALLS_MAX = 120
"""Calls into `os` of a life, at most; a life makes about as many between two starts."""
CODES = (errno.EIO, errno.ENOSPC)


@dataclass
class Ledger:
    """What the world outside knows of lines: which it was promised, and which it was refused."""

    name: str
    count: int = 0
    known: set[bytes] = field(default_factory=set)
    promised: list[bytes] = field(default_factory=list)
    refused: set[bytes] = field(default_factory=set)
    gone: set[bytes] = field(default_factory=set)
    """Refused, and something later was promised: these must never appear."""

    def make(self, source: random.Random) -> list[bytes]:
        """Return lines that are new."""
        lines = []
        for _ in range(source.randint(1, 4)):
            self.count += 1
            size = source.choice([10, 60, 60, 300])
            if self.name == "event" and source.random() < 0.1:
                size = source.randint(3_000, 9_000)
            line = {"time": "t", self.name: self.count, "pad": "x" * size}
            lines.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self.known.update(lines)
        return lines

    def promise(self, lines: list[bytes]) -> None:
        self.promised += lines
        self.gone |= self.refused
        self.refused.clear()

    def check(self, found: list[bytes], *, held_max: int | None = None) -> None:
        """Compare with what was *found*; only the newest *held_max* promises may be looked for."""
        counts = Counter(found)
        torn = counts.keys() - self.known
        assert not torn, f"no {self.name}: {next(iter(torn))[:80]!r}"
        doubled = [line for line, count in counts.items() if count > 1]
        assert not doubled, f"{self.name} stored twice: {doubled[0][:40]!r}"
        promised = self.promised if held_max is None else self.promised[-held_max:]
        lost = set(promised) - counts.keys()
        assert not lost, f"{self.name} lost: {next(iter(lost))[:40]!r}"
        back = self.gone & counts.keys()
        assert not back, f"{self.name} was refused: {next(iter(back))[:40]!r}"


class Life:
    """One process from its start to its end; `_safe` is what its cursor says."""

    def __init__(
        self,
        disk: Disk,
        events: Ledger,
        letters: Ledger,
        source: random.Random,
        runner: asyncio.Runner,
    ) -> None:
        self._disk = disk
        self._events, self._letters, self._source = events, letters, source
        root = disk.root
        self._slots = SlotFile(root / "state" / "w0-file.cursor", slot_bytes=4_096)
        newest = self._slots.load().newest
        position, skip, self._placement = json.loads(newest) if newest else (0, 0, {})
        self._mark = Mark(position, skip)
        self._keep()
        self._is_named = False
        # A life is as old or new as its kernel.
        has_dsync = source.random() < 0.5
        position_min = position + bool(skip)
        self._journal = Journal(root, position_min=position_min, has_dsync=has_dsync)
        disk.piece_bytes_max = source.choice([1_000, 5_000, 1 << 30])
        self._sink = Sink(root, runner)
        self._dead_letters = make_letters(root)

    def run(self, steps: int) -> None:
        ways = [self._append] * 4 + [self._deliver] * 6 + [self._settle] * 2
        ways += [self._release, self._bury, self._break]
        for _ in range(steps):
            self._source.choice(ways)()
        self._disk.clear_fault()

    def drain(self) -> None:
        """Deliver all, on a disk that works."""
        while self._deliver():
            pass
        assert self._settle()

    def close(self) -> None:
        self._journal.close()
        self._sink.close()
        self._slots.close()

    def give_up(self) -> None:
        """End the threads of a process that was killed."""
        with contextlib.suppress(Killed, SinkUnavailable):
            self._sink.close()

    def _append(self) -> None:
        lines = self._events.make(self._source)
        try:
            self._journal.append(lines)
        except Unavailable:
            self._events.refused.update(lines)
        else:
            self._events.promise(lines)

    def _bury(self) -> None:
        lines = self._letters.make(self._source)
        try:
            self._dead_letters.append(lines)
        except Unavailable:
            self._letters.refused.update(lines)
        else:
            self._letters.promise(lines)

    def _deliver(self) -> bool:
        """Take the next step of delivery; say whether there is another."""
        writer, before = self._sink.writer, self._mark
        try:
            if writer.place is None or writer.place != self._placement or not self._is_named:
                return self._find_place()
            if writer.is_suspect:
                return True
            self._mark, self._placement = self._sink.append(
                self._journal, self._mark, self._placement
            )
        except (SinkUnavailable, OSError):
            return True
        return self._mark != before

    def _find_place(self) -> bool:
        if self._sink.writer.is_suspect:
            self._mark, self._placement = self._safe
        self._mark, self._placement = self._sink.find_place(
            self._journal, self._mark, self._placement
        )
        # The first place is to be known before anything is there.
        self._is_named = self._is_named or self._settle()
        return True

    def _settle(self) -> bool:
        """Sync, and save the cursor; say whether it was."""
        writer = self._sink.writer
        if writer.place is None or writer.place != self._placement or writer.is_suspect:
            return False
        with contextlib.suppress(SinkUnavailable, OSError):
            writer.sync()
            self._slots.save(json.dumps([*self._mark, self._placement]).encode())
            self._keep()
            older = self._slots.slots.older
            if older is not None:
                writer.settled(json.loads(older)[-1])
            return True
        return False

    def _keep(self) -> None:
        self._safe = (self._mark, self._placement)

    def _release(self) -> None:
        older = self._slots.slots.older
        if older is not None:
            self._journal.release(json.loads(older)[0])

    def _break(self) -> None:
        """Let some of the next calls fail, unless the end of the process is near."""
        if not self._disk.has_fault:
            calls = self._source.choice([CALLS, SYNCS, WRITES])
            code, times = self._source.choice(CODES), self._source.choice([1, 1, 2, 4])
            self._disk.fail(self._source.randrange(4), code, calls, times=times)


def lose(seed: int, folder: Path, *, losses: int = LOSSES_A_SEED) -> int:
    """Live through *losses* in *folder* and return how many lines were promised.

    Raises:
        AssertionError: A promise was not kept; the text names *seed*.

    """
    source = random.Random(seed)
    events, letters = Ledger("event"), Ledger("letter")
    root = folder / "0"
    root.mkdir()
    disk = Disk(root)
    try:
        with asyncio.Runner() as runner:
            for number in range(1, losses + 1):
                disk = _live_and_lose(disk, events, letters, source, runner, folder / str(number))
            with disk:
                _check(disk, events, letters, source, runner)
    except BaseException as error:
        error.add_note(f"python -m tests.power.losses --losses {losses} --seed {seed}")
        raise
    return len(events.promised) + len(letters.promised)


def _live_and_lose(
    disk: Disk,
    events: Ledger,
    letters: Ledger,
    source: random.Random,
    runner: asyncio.Runner,
    target: Path,
) -> Disk:
    """Let processes live on *disk* until power is lost; return the disk after that."""
    is_lost = False
    while not is_lost:
        is_lost = source.random() < 0.7
        with disk:
            if source.random() < 0.5:
                disk.kill(source.randrange(CALLS_MAX))
            life = None
            try:
                life = Life(disk, events, letters, source, runner)
                life.run(source.randrange(60))
            except Killed:
                pass
            if life is not None:
                life.give_up()
            disk.end_process()
            # A refusal of a process that is gone leaves its client in doubt.
            events.refused.clear()
            letters.refused.clear()
            if not is_lost and source.random() < 0.5:
                _check(disk, events, letters, source, runner)
    after = Disk(disk.lose_power(source.randrange(1 << 32), target))
    if source.random() < 0.7:
        with after:
            _check(after, events, letters, source, runner)
    return after


def _check(
    disk: Disk, events: Ledger, letters: Ledger, source: random.Random, runner: asyncio.Runner
) -> None:
    """Start on a disk that works, deliver all, and compare with what was promised."""
    life = Life(disk, events, letters, source, runner)
    life.drain()
    life._bury()
    life.close()
    events.check(sent_lines(disk.root))
    letters.check(kept_letters(disk.root), held_max=20)
    disk.end_process()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--losses", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable()
    started_s, promised, left, seed = time.monotonic(), 0, options.losses, options.seed
    while left > 0:
        with tempfile.TemporaryDirectory(prefix="power-") as folder:
            promised += lose(seed, Path(folder), losses=min(left, LOSSES_A_SEED))
        left, seed = left - LOSSES_A_SEED, seed + 1
    took_s = time.monotonic() - started_s
    sys.stdout.write(
        f"{options.losses} power losses in {took_s:.0f} s, {promised} lines promised, "
        "none lost, doubled or torn\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
