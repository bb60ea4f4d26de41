"""Rates and latencies of a server, from what its processes report once a second."""

from __future__ import annotations

import time
from typing import Any

from segsrv.live.reports import Reports

RATES = (
    ("by_key", "segsrv_key_events", "key"),
    ("by_type", "segsrv_events", "type"),
    ("by_answer", "segsrv_answers", "code"),
)
SPAN_S = 3.0
"""Rates and latencies are those of the last moments, about so long."""

Counts = dict[str, dict[str, float]]


class Figures:
    """Compares reports with those of SPAN_S ago; belongs to whoever asks."""

    def __init__(self) -> None:
        self._counted: list[tuple[float, Counts]] = []

    def status(self, reports: Reports) -> dict[str, Any]:
        """Return the state of the workers and sinks, rates a second, and latencies in ms."""
        now_s = time.monotonic()
        counts = {name: reports.total(metric, label) for name, metric, label in RATES}
        for name in ("request", "commit"):
            counts[name] = reports.total(f"segsrv_{name}_seconds", "le", "_bucket")
        self._counted.append((now_s, counts))
        while len(self._counted) > 1 and self._counted[1][0] <= now_s - SPAN_S:
            del self._counted[0]
        before_s, before = self._counted[0]
        status: dict[str, Any] = {
            "kind": "status",
            "at_ms": time.time_ns() // 1_000_000,
            "workers": [
                {"worker": name, "pid": report.get("pid"), **report["ready"]}
                for name, report in reports.workers.items()
            ],
            "sinks": reports.sinks(),
            "rates": {
                name: _rates(counts[name], before[name], now_s - before_s)
                for name, _metric, _label in RATES
            },
        }
        for name in ("request", "commit"):
            status[f"{name}_ms"] = _latency_ms(counts[name], before[name])
        return status


def _rates(now: dict[str, float], before: dict[str, float], passed_s: float) -> dict[str, float]:
    """Return events a second of each label that has had any; no rate counts down at a restart."""
    if not passed_s:
        return dict.fromkeys(now, 0.0)
    return {
        label: round(max(count - before.get(label, 0.0), 0.0) / passed_s, 1)
        for label, count in now.items()
        if count
    }


def _latency_ms(now: dict[str, float], before: dict[str, float]) -> dict[str, float] | None:
    """Return the bounds that half and 99 of 100 were below, None if there were none lately."""
    counts = sorted(
        (float(bound), max(count - before.get(bound, 0.0), 0.0)) for bound, count in now.items()
    )
    if not counts or not counts[-1][1]:
        return None
    return {
        name: next(
            (round(bound * 1_000, 3) for bound, count in counts if count >= share * counts[-1][1]),
            0.0,
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }
