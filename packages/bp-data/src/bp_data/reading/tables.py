"""CSV and TSV files as rows, each a dict from column name to value."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator

from bp_core.errors import BadRow

from .context import Context
from .text import Lines

_FIX = 'Quote cells that hold the delimiter, a line end or a quote, and double the quotes inside: "say ""hi""".'
_DELIMITERS = (",", ";", "\t", "|")
Cells = Iterator[tuple[dict[str, object], str]]


def delimited(lines: Lines, delimiter: str, name: str, context: Context) -> Cells:
    """The rows of a CSV or TSV file with their locations; `context.fault` gets BadRow for a broken one.

    Where the header has no `delimiter`, another one that it has is taken: spreadsheets of many countries write
    semicolons.
    """
    head = list(itertools.islice(lines, 1))
    used = _delimiter(head[0][1], delimiter) if head else delimiter
    records = _records(itertools.chain(head, lines), used, name, context)
    header, place = next(records, ([], name))
    header = [column.strip() for column in header]
    names = [column for column in header if column]
    twice = {column for column in names if names.count(column) > 1}
    if twice:
        context.fault(BadRow(f"the header has {', '.join(sorted(map(repr, twice)))} more than once.", where=place))
        return
    for cells, place in records:
        if len(cells) != len(header):
            message = f"this row has {len(cells)} cells, the header {len(header)}."
            context.fault(BadRow(message, where=place, fix=_FIX))
        elif lost := _nameless(header, cells):
            message = f"cell {lost} has no name in the header."
            context.fault(BadRow(message, where=place, fix="Name every column in the first line."))
        else:
            yield {column: cell for column, cell in zip(header, cells, strict=True) if column}, place


def _nameless(header: list[str], cells: list[str]) -> int:
    """The number of a cell with text under an empty name; 0 if there is none. The first may be a row number."""
    for number, (column, cell) in enumerate(zip(header, cells, strict=True), 1):
        if not column and cell.strip() and not (number == 1 and cell.strip().isdecimal()):
            return number
    return 0


def _delimiter(header: str, expected: str) -> str:
    """The expected delimiter, unless the header has only another one."""
    outside_quotes = re.sub(r'"[^"]*"', "", header)
    if expected in outside_quotes:
        return expected
    return max((expected, *_DELIMITERS), key=outside_quotes.count)


def _records(
    lines: Iterator[tuple[int, str]], delimiter: str, name: str, context: Context
) -> Iterator[tuple[list[str], str]]:
    csv.field_size_limit(min(context.row_bytes, 2**31 - 1))
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    start = 1
    while True:
        cells: list[str] | None = []
        try:
            cells = next(reader, None)
        except csv.Error as error:
            context.fault(BadRow(f"this is not a row of cells ({error}).", where=f"{name}:{start}", fix=_FIX))
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield cells, f"{name}:{start}"
        start = reader.line_num + 1
