"""Text and Markdown files as rows: the whole document, its paragraphs, or its lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bp_core.choices import TextUnit

from .context import Context, Remark
from .text import Lines, too_large

_UNITS: dict[TextUnit, str] = {
    "document": "the whole document",
    "paragraph": "a paragraph, with blank lines between",
    "line": "a line",
}
Rows = Iterator[tuple[Mapping[str, object], str]]


def prose_rows(lines: Lines, name: str, context: Context) -> Rows:
    """The rows of a text. White space at the beginning of a row is kept; at its end there is none."""
    unit = context.config.text_unit
    others = " or ".join(other for other in _UNITS if other != unit)
    context.tell(Remark("text-unit", name, f"one row is {_UNITS[unit]}", f"Choose another with --text-unit {others}."))
    for number, text in _units(lines, unit, context.row_bytes):
        where = f"{name}:{number}"
        if text is None:
            context.fault(too_large(where, context))
        else:
            yield {"text": text}, where


def _units(lines: Lines, unit: TextUnit, longest: int) -> Iterator[tuple[int, str | None]]:
    """The number of the first line, and the text, of each unit; None for one of more than `longest` characters."""
    parts: list[str] = []
    start = size = 0
    for number, line in lines:
        blank = not line.strip()
        if parts and (unit == "line" or (unit == "paragraph" and blank)):
            yield start, _text(parts, size <= longest)
            parts, size = [], 0
        if blank and not parts:
            continue
        start = start if parts else number
        size += len(line)
        if size <= longest or not parts:
            parts.append(line)
    if parts:
        yield start, _text(parts, size <= longest)


def _text(parts: list[str], fits: bool) -> str | None:
    return "".join(parts).replace("\r\n", "\n").rstrip() if fits else None
