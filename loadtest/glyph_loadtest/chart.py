"""Charts as SVG, for pages that load nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 28, 40
COLOURS = ("#2563eb", "#d97706", "#dc2626", "#059669")


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows, and how values become places.

    Attributes:
        title: what it shows, with the unit.
        low: the value at its start.
        high: the value at its end.
        ticks: the values that are marked, with their texts.
        logarithmic: whether equal distances are equal ratios.
    """

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        scale: Callable[[float], float] = math.log10 if self.logarithmic else float
        low, high = scale(self.low), scale(self.high)
        return (scale(min(max(value, self.low), self.high)) - low) / (high - low)


@dataclass(frozen=True)
class Series:
    """A named line, as points in the axes' units."""

    name: str
    points: Sequence[tuple[float, float]]


def linear_axis(title: str, values: Sequence[float], start: float | None = 0.0) -> Axis:
    """An axis with round ticks over all values, from `start` (None: from the least value)."""
    low = min(values, default=0.0) if start is None else start
    high = max([*values, low + 1e-9])
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = tuple((number * step, f"{number * step:,.10g}") for number in range(first, last + 1))
    return Axis(title, first * step, last * step, ticks)


def logarithmic_axis(title: str, values: Sequence[float]) -> Axis:
    """An axis with ticks at 1, 2 and 5 times the powers of ten, over all values (greater than 0)."""
    low, high = min(values, default=1.0), max(values, default=10.0)
    steps = [
        m * 10.0**e for e in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2) for m in (1, 2, 5)
    ]
    first = max(step for step in steps if step <= low)
    last = min(step for step in steps if step >= high and step > first)
    inside = [step for step in steps if first <= step <= last]
    if len(inside) > 9:
        inside = [step for step in inside if f"{step:e}".startswith("1")]
    return Axis(title, first, last, tuple((step, f"{step:,.10g}") for step in inside), logarithmic=True)


def lines(x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """A chart of lines."""
    drawn = []
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{_x(x, a):.1f},{_y(y, b):.1f}" for a, b in one.points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        left = _LEFT + 110 * number
        drawn.append(f'<rect x="{left}" y="6" width="14" height="4" fill="{colour}"/>')
        drawn.append(f'<text x="{left + 20}" y="12">{escape(one.name)}</text>')
    return _frame(x, y, drawn)


def bars(x: Axis, y: Axis, edges: Sequence[tuple[float, float, float]]) -> str:
    """A chart of bars, each from an x to an x, with a height."""
    drawn = []
    for low, high, value in edges:
        left, right, top = _x(x, low), _x(x, high), _y(y, value)
        height = _HEIGHT - _BOTTOM - top
        width = max(right - left - 0.5, 0.5)
        drawn.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{COLOURS[0]}"/>'
        )
    return _frame(x, y, drawn)


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.place(value) * (_WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - axis.place(value) * (_HEIGHT - _TOP - _BOTTOM)


def _frame(x: Axis, y: Axis, drawn: list[str]) -> str:
    base = _HEIGHT - _BOTTOM
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y.title)} by {escape(x.title)}">']
    for value, text in y.ticks:
        place = _y(y, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in x.ticks:
        place = _x(x, value)
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{base}"/>')
        parts.append(f'<text x="{place:.1f}" y="{base + 16}" text-anchor="middle">{escape(text)}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{escape(x.title)}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="12" text-anchor="end">{escape(y.title)}</text>')
    return "".join([*parts, *drawn, "</svg>"])
