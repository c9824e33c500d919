"""CSV, TSV and parquet files as rows, each a dict from column name to value."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bp_core.errors import BadRow

from .text import Fault, Lines, optional, reading, strict

_FIX = 'Quote cells that hold the delimiter, a line end or a quote, and double the quotes inside: "say ""hi""".'
_LONGEST = 2**31 - 1  # characters in a cell; the csv module's own limit of 131072 is less than a long document
_BATCH = 512  # rows of a parquet file in memory at once
Cells = Iterator[tuple[dict[str, object], str]]


def delimited(lines: Lines, delimiter: str, name: str, fault: Fault = strict) -> Cells:
    """The rows of a CSV or TSV file with their locations; `fault` gets BadRow for a broken one."""
    records = _records(lines, delimiter, name, fault)
    header, place = next(records, ([], name))
    names = [column for column in header if column]
    twice = {column for column in names if names.count(column) > 1}
    if twice:
        fault(BadRow(f"the header has {', '.join(sorted(map(repr, twice)))} more than once.", where=place))
        return
    for cells, place in records:
        if len(cells) != len(header):
            message = f"this row has {len(cells)} cells, the header {len(header)}."
            fault(BadRow(message, where=place, fix=_FIX))
        else:
            yield {column: cell for column, cell in zip(header, cells, strict=True) if column}, place


def _records(lines: Lines, delimiter: str, name: str, fault: Fault) -> Iterator[tuple[list[str], str]]:
    csv.field_size_limit(_LONGEST)
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    start = 1
    while True:
        cells: list[str] | None = []
        try:
            cells = next(reader, None)
        except csv.Error as error:
            fault(BadRow(f"this is not a row of cells ({error}).", where=f"{name}:{start}", fix=_FIX))
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield cells, f"{name}:{start}"
        start = reader.line_num + 1


def parquet(path: Path, fault: Fault = strict) -> Cells:
    """The rows of a parquet file with their locations, read in batches; `fault` gets BadRow for a broken batch.

    Raises FileMissing, FileUnreadable, PackageMissing.
    """
    arrow = optional("pyarrow", "parquet", path)
    files = optional("pyarrow.parquet", "parquet", path)
    with reading(path, arrow.ArrowException), files.ParquetFile(path) as file:
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH):
            for offset, value in enumerate(_values(batch, f"{path}: row {number + 1}", fault), number + 1):
                yield value, f"{path}: row {offset}"
            number += batch.num_rows


def _values(batch: Any, where: str, fault: Fault) -> list[dict[str, object]]:
    try:
        values: list[dict[str, object]] = batch.to_pylist()
    except ValueError as error:
        fault(BadRow(f"of {batch.num_rows} rows from here on, a value cannot be read ({error}).", where=where))
        return []
    return values
