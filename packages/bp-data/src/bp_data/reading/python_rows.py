"""Rows given in Python: lists of dicts, objects of `datasets`, and tables of pandas, polars and Arrow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bp_core.errors import BadRow, BadValue

from .arrow import unpadded
from .json_rows import columns_to_rows, kind_of

_BATCH = 512  # rows of a table in memory at once
_MISSING = {"NAType", "NaTType"}  # pandas' signs of a missing value


def python_rows(data: Any) -> Iterator[object]:
    """The rows of any of these, each as plain Python values. Raises BadValue for a dict of splits."""
    if isinstance(data, Mapping):
        table = columns_to_rows({key: list(item) if _is_array(item) else item for key, item in data.items()})
        if table is None:
            splits = ", ".join(map(repr, data))
            fix = "Give one of them, as data['train']; or a list of rows."
            raise BadValue(f"this holds {splits}, not rows.", fix=fix)
        data = table
    if isinstance(data, list | tuple):
        return map(plain_row, data)
    return _of_table(data)


def as_mapping(value: object, where: str) -> Mapping[str, object]:
    """The value, if it is a row. Raises BadRow."""
    if not isinstance(value, Mapping):
        raise BadRow(f"this is {kind_of(value)}, not a dict.", where=where)
    return value


def plain_row(row: object) -> object:
    """The row with plain Python values in place of numpy's and torch's; its missing values are None."""
    return {key: plain(item) for key, item in row.items()} if isinstance(row, Mapping) else row


def plain(value: Any) -> Any:
    """A value without arrays, scalars and tensors of numpy and torch, and NaN as None."""
    kind = type(value)
    if kind in (str, int, bool, type(None)):
        return value
    if kind is float:
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if kind.__name__ in _MISSING:
        return None
    if _is_array(value):
        return plain(value.tolist())
    return value


def _is_array(value: object) -> bool:
    """Whether the value is an array, a tensor or a scalar of numpy or torch, or a column of a table."""
    return hasattr(value, "tolist") and hasattr(value, "dtype")


def _of_table(data: Any) -> Iterator[object]:
    """The rows of anything else that has rows. Of tables the padding of Arrow is taken out."""
    if hasattr(data, "iloc") and hasattr(data, "to_dict"):  # pandas
        parts = (data.iloc[start : start + _BATCH] for start in range(0, len(data), _BATCH))
        rows: Iterable[object] = (row for part in parts for row in part.to_dict("records"))
    elif hasattr(data, "iter_rows"):  # polars
        rows = data.iter_rows(named=True)
    elif hasattr(data, "to_batches"):  # an Arrow table
        rows = (row for batch in data.to_batches(max_chunksize=_BATCH) for row in batch.to_pylist())
    elif hasattr(data, "to_pylist"):  # an Arrow batch
        rows = data.to_pylist()
    elif hasattr(data, "with_format") and hasattr(data, "features"):  # datasets, whatever its rows are shown as
        rows = data.with_format(None)
    else:
        return map(plain_row, data)
    return (unpadded(row) if isinstance(row, Mapping) else row for row in map(plain_row, rows))
