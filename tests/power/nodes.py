"""Files and folders of the model in `disk`, and how a state is chosen for each."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

BLOCK_BYTES = 4096


@dataclass(slots=True)
class Choice:
    """Picks one of n possibilities, 0 the oldest and n - 1 the newest; one way for each kind.

    `removals` picks 1 of 2 where removals of names come before what was done earlier.
    """

    blocks: Callable[[int], int]
    sizes: Callable[[int], int]
    names: Callable[[int], int]
    removals: Callable[[int], int] = lambda _n: 0

    @staticmethod
    def random(source: random.Random) -> Choice:
        """Return one that often goes to an extreme, where most faults are."""

        def kind() -> Callable[[int], int]:
            bias = source.choice(["oldest", "newest", "any", "any"])
            return {"oldest": lambda _n: 0, "newest": lambda n: n - 1, "any": source.randrange}[
                bias
            ]

        return Choice(kind(), kind(), kind(), kind())

    @staticmethod
    def extremes() -> dict[str, Choice]:
        """Return a choice for each way to persist all or nothing of data, sizes and names."""
        ways = {"old": lambda _n: 0, "new": lambda n: n - 1}
        names = {
            "old": (ways["old"], ways["old"]),
            "new": (ways["new"], ways["old"]),
            "gone": (ways["old"], ways["new"]),
        }
        return {
            f"blocks {block} sizes {size} names {name}": Choice(
                ways[block], ways[size], *names[name]
            )
            for block in ways
            for size in ways
            for name in names
        }


class File:
    """Content, and for each block and the size what they may be instead after a power loss."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)
        self._blocks: dict[int, list[bytes]] = {}
        self._sizes: list[int] = []
        self._dropped: set[int] = set()

    @property
    def size(self) -> int:
        return len(self._data)

    def write(self, offset: int, data: bytes) -> None:
        if not data:
            return
        end = offset + len(data)
        self._touch(offset, end)
        if end > self.size:
            self._sizes.append(self.size)
            self._data.extend(bytes(end - self.size))
        self._data[offset:end] = data

    def truncate(self, size: int) -> None:
        if size == self.size:
            return
        self._touch(min(size, self.size), self.size)
        self._sizes.append(self.size)
        if size > self.size:
            self._data.extend(bytes(size - self.size))
        else:
            del self._data[size:]

    def sync(self, start: int = 0, end: int | None = None) -> None:
        """Make safe what was written from *start* to *end*, unless a failed sync dropped it."""
        for block in self._within(start, end) - self._dropped:
            del self._blocks[block]
        self._sizes.clear()

    def fail_sync(self, start: int = 0, end: int | None = None) -> None:
        self._dropped |= self._within(start, end)

    def persist(self, choice: Choice, path: Path) -> None:
        """Write to *path* what *choice* leaves."""
        sizes = [*self._sizes, self.size]
        size = sizes[choice.sizes(len(sizes))]
        data = bytearray(self._data)
        data.extend(bytes(max(size - len(data), 0)))
        for block, older in sorted(self._blocks.items()):
            versions = [*older, self._block(block)]
            start = block * BLOCK_BYTES
            if start < len(data):
                data[start : start + BLOCK_BYTES] = versions[choice.blocks(len(versions))]
        path.write_bytes(data[:size])

    def _within(self, start: int, end: int | None) -> set[int]:
        """Return the blocks that were written and hold bytes from *start* to *end*."""
        return {
            block
            for block in self._blocks
            if end is None or (start < (block + 1) * BLOCK_BYTES and block * BLOCK_BYTES < end)
        }

    def _touch(self, start: int, end: int) -> None:
        for block in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            self._blocks.setdefault(block, []).append(self._block(block))
            self._dropped.discard(block)

    def _block(self, block: int) -> bytes:
        start = block * BLOCK_BYTES
        return bytes(self._data[start : start + BLOCK_BYTES]).ljust(BLOCK_BYTES, b"\0")


@dataclass(slots=True, eq=False)
class Change:
    """Names of a folder and what they became; `twin` is the other folder's half of a rename."""

    names: dict[str, File | Folder | None]
    twin: tuple[Folder, Change] | None = field(default=None)

    @property
    def is_removal(self) -> bool:
        return self.twin is None and all(node is None for node in self.names.values())


class Folder:
    """Names now, those on stable storage, and the changes in between."""

    def __init__(self) -> None:
        self.entries: dict[str, File | Folder] = {}
        self._safe: dict[str, File | Folder] = {}
        self._changes: list[Change] = []

    def change(self, names: dict[str, File | Folder | None]) -> Change:
        change = Change(names)
        _apply(self.entries, change)
        self._changes.append(change)
        return change

    def sync(self) -> None:
        while self._changes:
            self._sync_next()

    def fail_sync(self) -> None:
        """Leave all as it is: a later sync makes up for it."""

    def persist(self, choice: Choice, path: Path) -> None:
        """Write to *path*, an empty folder, what *choice* leaves."""
        counts = {}
        for folder in self._folders(set()):
            counts[folder] = choice.names(len(folder._changes) + 1)
        _join_twins(counts)
        self._persist(counts, choice, path)

    def _persist(self, counts: dict[Folder, int], choice: Choice, path: Path) -> None:
        entries = dict(self._safe)
        for change in self._changes[: counts[self]]:
            _apply(entries, change)
        if choice.removals(2):
            for change in self._changes[counts[self] :]:
                if change.is_removal:
                    _apply(entries, change)
        for name, node in entries.items():
            if isinstance(node, Folder):
                (path / name).mkdir()
                node._persist(counts, choice, path / name)
            else:
                node.persist(choice, path / name)

    def _folders(self, seen: set[Folder]) -> set[Folder]:
        """Return this folder and all that are or may be below it."""
        seen.add(self)
        nodes = [*self.entries.values(), *self._safe.values()]
        nodes += [node for change in self._changes for node in change.names.values()]
        for node in nodes:
            if isinstance(node, Folder) and node not in seen:
                node._folders(seen)
        return seen

    def _sync_next(self) -> None:
        change = self._changes.pop(0)
        _apply(self._safe, change)
        if change.twin is not None:
            folder, other = change.twin
            while other in folder._changes:
                folder._sync_next()


def change_both(source: Folder, name: str, target: Folder, new_name: str) -> None:
    """Rename in one step."""
    node = source.entries[name]
    if source is target:
        source.change({name: None, new_name: node} if name != new_name else {})
        return
    gone, come = source.change({name: None}), target.change({new_name: node})
    gone.twin, come.twin = (target, come), (source, gone)


def _join_twins(counts: dict[Folder, int]) -> None:
    """Let both halves of a rename persist where one does."""
    is_settled = False
    while not is_settled:
        is_settled = True
        for folder, count in list(counts.items()):
            for change in folder._changes[:count]:
                if change.twin is None:
                    continue
                other, half = change.twin
                if half in other._changes and counts[other] <= other._changes.index(half):
                    counts[other] = other._changes.index(half) + 1
                    is_settled = False


def _apply(entries: dict[str, File | Folder], change: Change) -> None:
    for name, node in change.names.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node
