"""Samples of a report, found by what they measured, and compared within rounds."""

from __future__ import annotations

import statistics
from typing import Any

import trial

BEFORE = "segsrv before"
FLOOR, BASELINE = trial.ORJSON, trial.BASELINE
NAIVE, DISK, VICTORIA, OURS = "FastAPI + pydantic", "commits alone", "VictoriaLogs", "fsync"

Rows = list[dict[str, Any]]


class Samples:
    """Trials of one part, found by what they measured."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def of(self, server: str, shape: str, connections: int = 64, heads: str = "known") -> Rows:
        """Return a server's rounds under one load; *shape* is its name or the first word of it."""
        return [
            row
            for row in self.rows
            if row["server"] == server
            and shape in (row["shape"], row["shape"].split()[0])
            and (server == FLOOR or (row["connections"] == connections and row["heads"] == heads))
        ]


def ratios(ours: Rows, others: Rows, name: str = "events_per_s") -> list[float]:
    """Divide within rounds; rounds that one of the two lacks are left out."""
    by_round = {row["round"]: row[name] for row in others}
    return [row[name] / by_round[row["round"]] for row in ours if by_round.get(row["round"])]


def spread(values: list[float], digits: int = 2) -> str:
    """Render a median with the smallest and the largest, nothing for none."""
    if not values:
        return ""
    text = f"{statistics.median(values):,.{digits}f}"
    return f"{text} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def grid(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
