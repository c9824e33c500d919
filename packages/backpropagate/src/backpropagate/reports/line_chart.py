"""A line chart as SVG: the loss over the steps, readable on its own, in a browser or beside a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate

from .look import picture_style

Points = Sequence[tuple[float, float]]
WIDE, NARROW = (960, 320), (340, 260)  # width and height, in the pixels of a page of that width
_LEFT, _RIGHT, _BOTTOM = 56, 12, 40
_MOST = 600  # points of a line; more would not be seen


def loss_chart(train: Points, evaluation: Points, size: tuple[int, int] = WIDE) -> str:
    """Losses by step: each step pale, their running mean bold, evaluations as dots on a line of their own."""
    curves = [Curve("running mean", _smoothed(train), "bp-a", 2.5)]
    return chart("loss per token", [Curve("each step", train, "bp-a", 1, pale=True), *curves], evaluation, size)


def value_chart(name: str, points: Points, size: tuple[int, int] = WIDE) -> str:
    """One value by step."""
    return chart(name, [Curve(name, points, "bp-a", 2)], (), size)


@dataclass(frozen=True)
class Curve:
    """A line through points; `style` is a class of the style sheet."""

    name: str
    points: Points
    style: str
    width: float
    pale: bool = False


def chart(beside: str, curves: Sequence[Curve], dots: Points, size: tuple[int, int]) -> str:
    """Curves over the optimizer steps, and dots of evaluations, as SVG with a style sheet of its own."""
    points = [point for curve in curves for point in curve.points] + list(dots)
    xs, ys = _span([x for x, _ in points], 1.0), _span([y for _, y in points], 0.05)
    plane = _Plane(xs, ys, *size)
    lines = [plane.line(_thinned(curve.points), curve) for curve in curves]
    entries = [(curve.name, curve.style, curve.pale) for curve in curves]
    if dots:
        evaluated = Curve("evaluation", dots, "bp-b", 2)
        lines += [plane.line(dots, evaluated), *plane.dots(dots)]
        entries.append((evaluated.name, evaluated.style, False))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" role="img"'
    head += f' aria-label="{escape(beside)} by step"><style>{picture_style()}</style>'
    legend = _legend(entries, *((0, 30) if plane.is_narrow else (104, 14)))
    return "\n".join([head, *plane.axes("step", beside), *lines, *legend, "</svg>"]) + "\n"


@dataclass(frozen=True)
class _Plane:
    """From numbers to places in a picture of `width` × `height` pixels."""

    xs: tuple[float, float]
    ys: tuple[float, float]
    width: int
    height: int

    @property
    def is_narrow(self) -> bool:
        return self.width < WIDE[0]

    @property
    def top(self) -> int:
        return 44 if self.is_narrow else 28

    def x(self, value: float) -> float:
        return _LEFT + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.ys[0]) / (self.ys[1] - self.ys[0])
        return self.height - _BOTTOM - share * (self.height - self.top - _BOTTOM)

    def line(self, points: Points, curve: Curve) -> str:
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        pale = ' opacity="0.35"' if curve.pale else ""
        return f'<polyline class="{curve.style}" points="{places}" stroke-width="{curve.width}"{pale}/>'

    def dots(self, points: Points) -> list[str]:
        return [f'<circle class="bp-d" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3.5"/>' for x, y in points]

    def axes(self, below: str, beside: str) -> list[str]:
        floor, right = self.height - _BOTTOM, self.width - _RIGHT
        parts = [_text(0, 14, beside, "start")]
        for value in _ticks(*self.ys):
            y = self.y(value)
            parts.append(f'<path class="bp-g" d="M{_LEFT} {y:.1f}H{right}"/>')
            parts.append(_text(_LEFT - 8, y + 4, f"{value:g}", "end"))
        for value in _ticks(*self.xs, whole=True):
            x = self.x(value)
            parts.append(f'<path class="bp-g" d="M{x:.1f} {self.top}V{floor}"/>')
            parts.append(_text(x, floor + 16, f"{value:g}", "middle"))
        return [*parts, _text((self.width + _LEFT) / 2, self.height - 6, below, "middle")]


def _legend(entries: Sequence[tuple[str, str, bool]], x: float, y: int) -> list[str]:
    """Names of the curves in a row above the picture, from `x` on."""
    parts = []
    for name, style, pale in entries:
        faint = ' opacity="0.35"' if pale else ""
        parts.append(f'<path class="{style}" d="M{x:.0f} {y - 4}h16" stroke-width="3"{faint}/>')
        parts.append(_text(x + 20, y, name, "start"))
        x += 34 + 6.2 * len(name)
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="bp-t" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    """The range of `values`, widened where it is empty."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high - low < 1e-9:
        return low - margin, high + margin
    return low, high


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About five round numbers (1, 2 or 5 times a power of ten apart) between low and high."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    size = max(1.0, size) if whole else size
    return [n * size for n in range(math.ceil(low / size), math.floor(high / size + 1e-9) + 1)]


def _smoothed(points: Points) -> Points:
    """Means over a twentieth of the points, at least five, around each; fewer towards the ends."""
    sums = [0.0, *accumulate(y for _, y in points)]
    half = max(5, len(points) // 20) // 2
    made = []
    for index, (x, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index)
        made.append((x, (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)))
    return made


def _thinned(points: Points) -> Points:
    return points[:: max(1, len(points) // _MOST)]
