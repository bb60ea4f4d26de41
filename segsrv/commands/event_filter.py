"""Which events of a journal a command is asked about: by key, type and time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from segsrv.commands import times
from segsrv.journal.facts import Facts, Run


class Known(NamedTuple):
    """What is known of the events of one type in one request."""

    key_id: str
    format: str
    type: str
    received_ms: int
    events: int
    bytes: int


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the flags that select events."""
    parser.add_argument(
        "--key-id",
        action="append",
        metavar="ID",
        help="only events of this key; may be given again",
    )
    parser.add_argument(
        "--type",
        action="append",
        metavar="TYPE",
        help="only events of this type; may be given again",
    )
    times.add_flags(parser)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Empty sets and None stand for all."""

    key_ids: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None

    @classmethod
    def of(cls, flags: argparse.Namespace) -> EventFilter:
        since_ms, until_ms = times.span_ms(flags)
        return cls(frozenset(flags.key_id or ()), frozenset(flags.type or ()), since_ms, until_ms)

    def __bool__(self) -> bool:
        return self != EventFilter()

    def has(self, event: Facts) -> bool:
        """Say whether an event is meant."""
        return self._has(event.key_id, event.received_ms) and (
            not self.types or event.type in self.types
        )

    def known(self, runs: Sequence[Run]) -> list[Known]:
        """Return what is known of the events that are meant."""
        found: list[Known] = []
        for key_id, output, received_ms, types, lengths, _ids in runs:
            if not self._has(key_id, received_ms):
                continue
            by_type: dict[str, list[int]] = {}
            if isinstance(types, str):
                by_type[types] = lengths
            else:
                for kind, length in zip(types, lengths, strict=True):
                    by_type.setdefault(kind, []).append(length)
            found += [
                Known(key_id, output, kind, received_ms, len(sizes), sum(sizes))
                for kind, sizes in by_type.items()
                if not self.types or kind in self.types
            ]
        return found

    def _has(self, key_id: str, received_ms: int) -> bool:
        return (
            (not self.key_ids or key_id in self.key_ids)
            and (self.since_ms is None or received_ms >= self.since_ms)
            and (self.until_ms is None or received_ms < self.until_ms)
        )
