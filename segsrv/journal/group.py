"""Requests that share a commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from segsrv.errors import Unavailable

Done = Callable[[Unavailable | None], None]
"""Told on the loop, once: None when the events are safe, or why they are not stored."""


@dataclass(slots=True)
class Group:
    """What one commit writes, and who waits for it."""

    lines: list[bytes] = field(default_factory=list)
    runs: list[bytes] = field(default_factory=list)
    dead_letters: list[bytes] = field(default_factory=list)
    waiting: list[Done] = field(default_factory=list)
    events: int = 0
    size: int = 0
