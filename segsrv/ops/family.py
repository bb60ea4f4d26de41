"""A metric and its samples as plain data, so that they can cross processes as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Sample = tuple[str, dict[str, str], float]
"""A sample's name suffix, its labels and its value."""
Family = tuple[str, str, str, list[Sample]]
"""A metric's name, type, help and samples."""


def counter(name: str, text: str, samples: Iterable[tuple[dict[str, str], Any]]) -> Family:
    rows: list[Sample] = [("_total", labels, float(value)) for labels, value in samples]
    return f"segsrv_{name}", "counter", text, rows


def gauge(name: str, text: str, samples: Iterable[tuple[dict[str, str], Any]]) -> Family:
    rows: list[Sample] = [("", labels, float(value)) for labels, value in samples]
    return f"segsrv_{name}", "gauge", text, rows
