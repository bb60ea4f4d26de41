"""Line plots as SVG, small and with nothing to load: the text of the page is all there is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 36, 48
COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#8d6a9f", "#e09f3e", "#444444", "#00a6a6", "#9a031e")
TICKS = 5

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What stands along one side; a logarithmic axis needs values above 0."""

    label: str
    is_log: bool = False


def lines(title: str, series: dict[str, Points], x: Axis, y: Axis) -> str:
    """Draw each of *series* as a line with its points; none of them gives a plot that says so."""
    points = [point for line in series.values() for point in line]
    if not points:
        return f"<p>{escape(title)}: nothing was measured.</p>"
    across = _Scale([one for one, _ in points], x, LEFT, WIDTH - RIGHT)
    up = _Scale([one for _, one in points], y, HEIGHT - BOTTOM, TOP)
    height = HEIGHT + 18 * len(series)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<text x="{LEFT}" y="20" class="title">{escape(title)}</text>',
        *_grid(across, up),
    ]
    for index, (name, line) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        drawn = [(across.place(a), up.place(b)) for a, b in sorted(line)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in drawn)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(drawn) <= 40:
            parts += [
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in drawn
            ]
        at = HEIGHT + 18 * index
        parts.append(f'<rect x="{LEFT}" y="{at - 9}" width="12" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 18}" y="{at}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"])


class _Scale:
    """Places values between two ends of the plot."""

    def __init__(self, values: list[float], axis: Axis, begin: float, end: float) -> None:
        self.axis, self._begin, self._end = axis, begin, end
        if axis.is_log:
            self._low, self._high = math.log10(min(values)), math.log10(max(values))
        else:
            self._low, self._high = min(0.0, *values), max(values)
        if self._high <= self._low:
            self._high = self._low + 1

    def place(self, value: float) -> float:
        value = math.log10(value) if self.axis.is_log else value
        return self._begin + (self._end - self._begin) * (value - self._low) / (
            self._high - self._low
        )

    def ticks(self) -> list[float]:
        if self.axis.is_log:
            whole = range(math.ceil(self._low - 1e-9), math.floor(self._high + 1e-9) + 1)
            low, high = 10**self._low, 10**self._high
            return [10.0**power for power in whole] if len(whole) > 1 else [low, high]
        step = (self._high - self._low) / TICKS
        size = 10 ** math.floor(math.log10(step))
        step = next(size * one for one in (1, 2, 5, 10) if size * one >= step)
        first = math.ceil(self._low / step)
        return [index * step for index in range(first, math.floor(self._high / step) + 1)]


def _grid(across: _Scale, up: _Scale) -> list[str]:
    parts = []
    for value in across.ticks():
        at = across.place(value)
        parts.append(_line(at, TOP, at, HEIGHT - BOTTOM))
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" class="x">{_number(value)}</text>'
        )
    for value in up.ticks():
        at = up.place(value)
        parts.append(_line(LEFT, at, WIDTH - RIGHT, at))
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" class="y">{_number(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    below = HEIGHT - BOTTOM + 33
    parts.append(f'<text x="{middle}" y="{below}" class="x">{escape(across.axis.label)}</text>')
    parts.append(
        f'<text x="{LEFT - 60}" y="{TOP - 4}" class="label">{escape(up.axis.label)}</text>'
    )
    return parts


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2g}"


def bars(title: str, values: dict[str, float]) -> str:
    """Draw a bar for each value, with the value beside it."""
    if not values:
        return f"<p>{escape(title)}: nothing was measured.</p>"
    height = TOP + 30 * len(values)
    most = max(values.values()) or 1
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<text x="{LEFT}" y="20" class="title">{escape(title)}, events/s</text>',
    ]
    for index, (name, value) in enumerate(values.items()):
        at, length = TOP + 30 * index, (WIDTH - LEFT - 110) * value / most
        parts.append(f'<text x="{LEFT - 6}" y="{at + 15}" class="y">{escape(name)}</text>')
        parts.append(
            f'<rect x="{LEFT}" y="{at}" width="{length:.1f}" height="22" fill="{COLOURS[0]}"/>'
        )
        parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{at + 15}">{value:,.0f}</text>')
    return "\n".join([*parts, "</svg>"])
