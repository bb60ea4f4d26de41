"""What is aimed at, beside what a report measured."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import event_path
import linear
import soak
from rounds import (
    BASELINE,
    BEFORE,
    DISK,
    FLOOR,
    NAIVE,
    OURS,
    VICTORIA,
    Samples,
    grid,
    ratios,
    spread,
)

HEAD = ["ratio within rounds, or figure", "median (min to max)", "their CPU an event ÷ its own"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """Values of each round, and what their median should be at least, or else at most."""

    name: str
    values: list[float]
    least: float | None = None
    most: float | None = None
    by_cpu: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        median = statistics.median(self.values)
        if self.least is not None:
            aim, is_reached = f"≥ {self.least:g}", median >= self.least
        else:
            aim, is_reached = f"≤ {self.most:g}", median <= (self.most or 0)
        reached = "yes" if is_reached else "no"
        return [self.name, spread(self.values), spread(self.by_cpu), aim, reached]


def table(report: dict[str, Any]) -> str:
    """Render each aim that something was measured for; servers are compared within rounds."""
    parts = report["parts"]
    found = of_full_load(Samples(parts.get("saturation", [])))
    found += of_workers(Samples(parts.get("workers", [])))
    found += of_event_path(parts.get("micro", []), parts.get("linear", []))
    half = [row for row in parts.get("latency", []) if row["share"] == 0.5]
    values = [row["p99_ms"] / row["p50_ms"] for row in half]
    found.append(Aim(name="p99 ÷ p50 at half load", values=values, most=5))
    memory = [row["mib"] for row in parts.get("memory", [])]
    most = [max(memory)] if memory else []
    found.append(Aim(name="MiB of a process at most", values=most, most=soak.WORKER_MIB_MAX))
    return grid([*HEAD, "aim", "reached"], [aim.cells() for aim in found if aim.values])


def of_full_load(samples: Samples) -> list[Aim]:
    def over(
        name: str,
        others: str,
        least: float,
        shape: str = "single",
        connections: int = 64,
        heads: str = "known",
    ) -> Aim:
        ours = samples.of(OURS, shape, connections, heads)
        # Only our own servers are measured again with heads that are all new.
        theirs = samples.of(others, shape, connections, heads if others == BEFORE else "known")
        by_cpu = ratios(theirs, ours, "cpu_us")
        return Aim(name=name, values=ratios(ours, theirs), least=least, by_cpu=by_cpu)

    found = []
    for heads in ("known", "new"):
        ours = f"singles, heads {heads}"
        found.append(over(f"{ours} ÷ empty aiohttp handler", BASELINE, 1.40, heads=heads))
        found.append(over(f"{ours} ÷ {BEFORE}", BEFORE, 2.2, heads=heads))
        found.append(over(f"{ours} ÷ {NAIVE}", NAIVE, 8, heads=heads))
    floor = ratios(samples.of(FLOOR, "batch"), samples.of(OURS, "batch"), "cpu_us")
    return [
        *found,
        over("singles, 16 connections ÷ commits alone", DISK, 0.9, connections=16),
        over("singles ÷ VictoriaLogs", VICTORIA, 3),
        Aim(name="batches: orjson's CPU ÷ its own", values=floor, least=0.25),
        over(f"batches ÷ {BEFORE}", BEFORE, 1.5, "batch"),
        over(f"batches ÷ {NAIVE}", NAIVE, 2.5, "batch"),
        over("batches ÷ VictoriaLogs", VICTORIA, 0.9, "batch"),
    ]


def of_workers(samples: Samples) -> list[Aim]:
    return [
        Aim(
            name=f"{shape}, CPU of two workers ÷ one",
            values=ratios(samples.of("2 workers", shape), samples.of("1 worker", shape), "cpu_us"),
            most=1.25,
        )
        for shape in ("single", "batch")
    ]


def of_event_path(micro: list[dict[str, Any]], sizes: list[dict[str, Any]]) -> list[Aim]:
    found = [
        Aim(
            name=f"event path, {row['load']}, {row['format']}",
            values=[event_path.Cost(**row).of_floor],
            least=0.42 if row["format"] == "flat" else 0.36,
        )
        for row in micro
        if "batch" in row["load"]
    ]
    if sizes:
        points = [linear.Point(**row) for row in sizes]
        for name, values in (
            ("an event, 25 to 1,000 a batch: dearest ÷ cheapest", linear.batches_us(points)),
            ("a key more, 10 to 10,000 an event: the same", linear.marginal_us(points)),
        ):
            found.append(Aim(name=name, values=[1 + linear.spread(values)], most=1.15))
    return found
