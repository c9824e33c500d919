"""A matrix of changes as SVG: a cell for each number, blue where it fell, orange where it rose."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_CELL_WIDTH, _CELL_HEIGHT, _LEFT, _TOP = 84, 34, 180, 60
_LONGEST = 24  # characters of a name
_FALLEN, _RISEN = (31, 111, 178), (194, 87, 26)


def heat_map(values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str]) -> str:
    """Values [row][column] with the names beside and above; None stays empty. The strongest colour is the largest."""
    largest = max((abs(value) for line in values for value in line if value is not None), default=0.0) or 1.0
    width, height = _LEFT + _CELL_WIDTH * len(columns) + 16, _TOP + _CELL_HEIGHT * len(rows) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    parts.append(_text(_LEFT - 8, _TOP - 10, "rows of … after …", "end"))
    for number, name in enumerate(columns):
        parts.append(_text(_LEFT + _CELL_WIDTH * (number + 0.5), _TOP - 10, _short(name, 13), "middle"))
    for number, (name, line) in enumerate(zip(rows, values, strict=True)):
        y = _TOP + _CELL_HEIGHT * number
        parts.append(_text(_LEFT - 8, y + _CELL_HEIGHT / 2 + 4, _short(name, _LONGEST), "end"))
        for column, value in enumerate(line):
            if value is not None:
                parts += _cell(_LEFT + _CELL_WIDTH * column, y, value, value / largest)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _cell(x: float, y: float, value: float, strength: float) -> list[str]:
    colour = _RISEN if strength > 0 else _FALLEN
    red, green, blue = (round(255 + (part - 255) * abs(strength)) for part in colour)
    ink = "white" if abs(strength) > 0.6 else "#333333"
    place = f'x="{x}" y="{y}" width="{_CELL_WIDTH - 2}" height="{_CELL_HEIGHT - 2}"'
    middle = _text(x + _CELL_WIDTH / 2 - 1, y + _CELL_HEIGHT / 2 + 3, f"{value:+.3f}", "middle", ink)
    return [f'<rect {place} fill="rgb({red},{green},{blue})"/>', middle]


def _text(x: float, y: float, text: str, anchor: str, ink: str = "#333333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{ink}">{escape(text)}</text>'


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
