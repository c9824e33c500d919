"""Text and Markdown files as rows: the whole document, its paragraphs, or its lines."""

from __future__ import annotations

import itertools
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
    for number, text in _units(lines, unit):
        where = f"{name}:{number}"
        if len(text) > context.row_bytes:
            context.fault(too_large(where, context))
        else:
            yield {"text": text}, where


def _units(lines: Lines, unit: TextUnit) -> Iterator[tuple[int, str]]:
    """The number of the first line, and the text, of each unit."""
    if unit == "line":
        for number, line in lines:
            if line.strip():
                yield number, line.rstrip()
        return
    for blank, group in itertools.groupby(lines, key=lambda pair: unit == "paragraph" and not pair[1].strip()):
        if blank:
            continue
        written = list(group)
        text = "".join(line for _, line in written).replace("\r\n", "\n").rstrip()
        skipped = len(written) - len(list(itertools.dropwhile(lambda pair: not pair[1].strip(), written)))
        if text:
            yield written[skipped][0], "".join(text.splitlines(keepends=True)[skipped:]) if skipped else text
