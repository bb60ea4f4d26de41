"""What a watcher wants to see."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = frozenset({"event", "refused", "letter", "status"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """Items that match all of it; an empty field matches everything.

    *key* is a key's id, *type* a call's type and *event* an event's name; of *kinds*, those of
    KINDS.
    """

    key: str = ""
    type: str = ""
    event: str = ""
    kinds: frozenset[str] = frozenset()
