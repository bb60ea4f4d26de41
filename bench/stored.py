"""Was every acknowledged event stored? Counts and checks the lines that the file sink wrote."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK_BYTES = 1 << 20
PROBLEMS_SHOWN_MAX = 5


class LineCounter:
    """Counts lines of the growing files under a folder, reading every byte once."""

    def __init__(self, events_dir: Path) -> None:
        self.events_dir = events_dir
        self.offsets: dict[Path, int] = {}
        self.lines = 0

    def update(self) -> int:
        for path in event_files(self.events_dir):
            with path.open("rb") as file:
                file.seek(self.offsets.get(path, 0))
                while chunk := file.read(CHUNK_BYTES):
                    self.lines += chunk.count(b"\n")
                self.offsets[path] = file.tell()
        return self.lines


def event_files(events_dir: Path) -> Iterator[Path]:
    return events_dir.glob("**/*.ndjson")


def wait_for_lines(events_dir: Path, expected: int, timeout_s: float) -> float | None:
    """Wait until *expected* lines are readable; return how long that took, or None if never."""
    counter = LineCounter(events_dir)
    started = time.monotonic()
    while counter.update() < expected:
        if time.monotonic() - started > timeout_s:
            return None
        time.sleep(0.02)
    return time.monotonic() - started


def event_id(event: dict[str, Any]) -> str | None:
    """Read the id of a stored event, in either of the server's formats or as it was sent."""
    context = event.get("eventn_ctx")
    if isinstance(context, dict):
        return context.get("event_id")
    return event.get("eventn_ctx_event_id") or event.get("messageId")


def check(
    events_dir: Path,
    requests: list[tuple[str, ...]],
    *,
    acknowledged: int,
    in_flight: int,
) -> tuple[int, list[str]]:
    """Compare the stored lines with the requests that were sent; return their count and all faults.

    *requests* holds the event ids of each prepared request. Requests are sent many times over, so
    ids repeat; but a request is stored as a whole or not at all, so its ids are stored equally
    often, and all together not less often than *acknowledged* requests, nor more often than those
    and the *in_flight* ones that nobody waited for.
    """
    problems: list[str] = []
    times: Counter[str | None] = Counter()
    for path in event_files(events_dir):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    event = orjson.loads(line)
                except orjson.JSONDecodeError:
                    event = None
                if isinstance(event, dict) and line.endswith(b"\n"):
                    times[event_id(event)] += 1
                else:
                    problems.append(f"{path.name}:{number} is no JSON object: {line[:80]!r}")
    stored = times.total()
    stored_requests = 0
    for ids in requests:
        counts = [times.pop(event, 0) for event in ids]
        stored_requests += max(counts)
        if min(counts) != max(counts):
            problems.append(f"a request stored in part: {min(counts)} to {max(counts)} times")
    if times:
        problems.append(f"{times.total()} lines with ids nobody sent: {next(iter(times))!r}")
    if stored_requests < acknowledged:
        problems.append(f"{acknowledged - stored_requests} acknowledged requests are not stored")
    if stored_requests > acknowledged + in_flight:
        problems.append(
            f"{stored_requests - acknowledged - in_flight} requests stored more often than sent"
        )
    dropped = len(problems) - PROBLEMS_SHOWN_MAX
    if dropped > 0:
        problems = [*problems[:PROBLEMS_SHOWN_MAX], f"and {dropped} more"]
    return stored, problems
