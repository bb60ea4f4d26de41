"""A metric and its samples as plain data, so that they can cross processes as JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from segsrv.histogram import Histogram

Labels = dict[str, str]
Sample = tuple[str, Labels, float]
"""A sample's name suffix, its labels and its value."""
Family = tuple[str, str, str, list[Sample]]
"""A metric's name, type, help and samples."""


def counter(name: str, text: str, samples: Iterable[tuple[Labels, Any]]) -> Family:
    rows: list[Sample] = [("_total", labels, float(value)) for labels, value in samples]
    return f"segsrv_{name}", "counter", text, rows


def gauge(name: str, text: str, samples: Iterable[tuple[Labels, Any]]) -> Family:
    rows: list[Sample] = [("", labels, float(value)) for labels, value in samples]
    return f"segsrv_{name}", "gauge", text, rows


def histogram(name: str, text: str, found: Histogram) -> Family:
    """Return *found* with a count for each bound of all that took no longer."""
    bounds = [*map(str, found.bounds), "+Inf"]
    counts = list(itertools.accumulate(found.counts))
    rows: list[Sample] = [
        ("_bucket", {"le": bound}, float(count))
        for bound, count in zip(bounds, counts, strict=True)
    ]
    rows += [("_count", {}, float(counts[-1])), ("_sum", {}, found.sum_s)]
    return f"segsrv_{name}", "histogram", text, rows
