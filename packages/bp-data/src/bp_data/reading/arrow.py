"""Parquet and Arrow files as rows.

Arrow gives every row of a column the same keys, and fills those that a row does not have with null. Such padding is
taken out again: a model must not learn to write it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bp_core.errors import BadRow, FileUnreadable

from .context import Context
from .text import expanded_too_far, optional, reading, refuse_pointer, too_large

_BATCH = 512  # rows in memory at once
_NULL_IS_MEANT = ("default", "const", "enum")  # keys of a JSON schema under which null is a value
Rows = Iterator[tuple[Mapping[str, object], str]]


def parquet(path: Path, context: Context) -> Rows:
    """The rows of a parquet file. Raises FileMissing, FileUnreadable, FileTooLarge, PackageMissing."""
    arrow = optional("pyarrow", "parquet", path)
    files = optional("pyarrow.parquet", "parquet", path)
    with reading(path, arrow.ArrowException):
        refuse_pointer(path)
    with reading(path, arrow.ArrowException), files.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups)]
        _require_size(sum(sizes), path, context)
        yield from _rows(file.iter_batches(batch_size=_BATCH), path, context)


def arrow_file(path: Path, context: Context) -> Rows:
    """The rows of an Arrow file, as `datasets` saves them, or Feather. Raises as `parquet`."""
    arrow = optional("pyarrow", "parquet", path)
    with reading(path, arrow.ArrowException), path.open("rb") as file:
        is_stream = file.read(6) != b"ARROW1"
        file.seek(0)
        if is_stream:
            yield from _rows(iter(arrow.ipc.open_stream(file)), path, context)
        else:
            table = arrow.ipc.open_file(file)
            batches = (table.get_batch(index) for index in range(table.num_record_batches))
            yield from _rows(batches, path, context)


def data_files(folder: Path) -> list[Path] | None:
    """The files of a folder that `Dataset.save_to_disk` wrote, in order; None for other folders."""
    state = folder / "state.json"
    if not state.is_file() or not (folder / "dataset_info.json").is_file():
        return None
    try:
        names = [item["filename"] for item in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise FileUnreadable("this file does not name the data files.", where=str(state)) from error
    return [folder / name for name in names]


def without_padding(value: Any) -> Any:
    """The value without the keys of objects inside it that are null, except where a JSON schema means null."""
    if isinstance(value, dict):
        return {key: without_padding(item) for key, item in value.items() if item is not None or key in _NULL_IS_MEANT}
    if isinstance(value, list):
        return [without_padding(item) if isinstance(item, dict | list) else item for item in value]
    return value


def unpadded(row: Mapping[str, object]) -> dict[str, object]:
    """The row without padding inside its values; columns that are null stay, so that they are called so."""
    return {key: without_padding(item) for key, item in row.items()}


def _rows(batches: Iterator[Any], path: Path, context: Context) -> Rows:
    number = expanded = 0
    for batch in batches:
        if not _is_sound(batch, number, path, context):
            number += batch.num_rows
            continue
        for start in range(0, batch.num_rows, _BATCH):
            part = batch.slice(start, _BATCH)
            expanded += sum(_size(column) for column in part.columns)
            if expanded > context.config.max_expanded * 2**30:
                _require_size(expanded, path, context)
            for offset, value in enumerate(_values(part, number, path, context), number + 1):
                yield unpadded(value), f"{path}: row {offset}"
            number += part.num_rows


def _is_sound(batch: Any, before: int, path: Path, context: Context) -> bool:
    """Whether a batch is what it says; with places that lie outside of its bytes, reading it would end the process."""
    try:
        batch.validate(full=True)
    except ValueError as error:
        where = f"{path}: row {before + 1}"
        message = f"{batch.num_rows} rows from here on cannot be read ({error})."
        context.fault(BadRow(message, where=where))
        return False
    return True


def _size(column: Any) -> int:
    """The size of a column in bytes; one that refers to a dictionary shares it with all others."""
    return int(column.indices.nbytes if hasattr(column, "dictionary") else column.nbytes)


def _values(batch: Any, before: int, path: Path, context: Context) -> Iterator[dict[str, object]]:
    """The rows of a batch, of which `before` is the number of rows before it."""
    longest = context.row_bytes
    if batch.nbytes <= longest:
        try:
            yield from batch.to_pylist()
        except ValueError as error:
            where = f"{path}: row {before + 1}"
            message = f"of {batch.num_rows} rows from here on, a value cannot be read ({error})."
            context.fault(BadRow(message, where=where))
        return
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        if row.nbytes > longest:
            context.fault(too_large(f"{path}: row {before + index + 1}", context))
        else:
            yield from row.to_pylist()


def _require_size(size: int, path: Path, context: Context) -> None:
    limit = context.expanded_bytes(path.stat().st_size)
    if size > limit:
        raise expanded_too_far(limit, path, context.config.max_expanded, context.config.max_ratio)
