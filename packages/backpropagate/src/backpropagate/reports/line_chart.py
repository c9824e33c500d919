"""A line chart as SVG: the loss over the steps, readable on its own, in a browser or beside a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import accumulate

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 44
_MOST = 600  # points of a line; more would not be seen


def loss_chart(train: Points, evaluation: Points) -> str:
    """Losses by step: each step pale, their running mean bold, evaluations as dots on a line of their own."""
    points = [*train, *evaluation]
    steps = [step for step, _ in points]
    losses = [loss for _, loss in points]
    plane = _Plane(_span(steps, 1.0), _span(losses, 0.05))
    font = 'font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {font}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *plane.axes("optimizer step", "loss per target token"),
        plane.line(_thinned(train), "#9ec5e8", 1),
        plane.line(_thinned(_smoothed(train)), "#1f6fb2", 2.5),
    ]
    if evaluation:
        parts += [plane.line(evaluation, "#c2571a", 1.5), *plane.dots(evaluation, "#c2571a")]
    legend = [("each step", "#9ec5e8"), ("running mean", "#1f6fb2")] + [("evaluation", "#c2571a")] * bool(evaluation)
    return "\n".join([*parts, *_legend(legend), "</svg>"]) + "\n"


class _Plane:
    """From numbers to places in the picture."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        self.xs, self.ys = xs, ys

    def x(self, value: float) -> float:
        return _LEFT + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (HEIGHT - _TOP - _BOTTOM)

    def line(self, points: Points, colour: str, width: float) -> str:
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"/>'

    def dots(self, points: Points, colour: str) -> list[str]:
        return [f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]

    def axes(self, below: str, beside: str) -> list[str]:
        floor, middle = HEIGHT - _BOTTOM, (HEIGHT - _BOTTOM + _TOP) / 2
        parts = []
        for value in _ticks(*self.ys):
            y = self.y(value)
            parts += [f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="#dddddd"/>']
            parts += [_text(_LEFT - 6, y + 4, f"{value:g}", "end")]
        parts += [_text(self.x(value), floor + 16, f"{value:g}", "middle") for value in _ticks(*self.xs, whole=True)]
        parts += [f'<path d="M{_LEFT} {_TOP}V{floor}H{WIDTH - _RIGHT}" fill="none" stroke="#555555"/>']
        parts += [_text((WIDTH + _LEFT) / 2, HEIGHT - 8, below, "middle")]
        return [*parts, f'<g transform="rotate(-90 16 {middle:.0f})">{_text(16, middle, beside, "middle")}</g>']


def _legend(entries: Sequence[tuple[str, str]]) -> list[str]:
    parts = []
    for row, (name, colour) in enumerate(entries):
        y = _TOP + 12 + 18 * row
        parts.append(f'<path d="M{WIDTH - 130} {y}h22" stroke="{colour}" stroke-width="3"/>')
        parts.append(_text(WIDTH - 102, y + 4, name, "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333333">{escape(text)}</text>'


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
