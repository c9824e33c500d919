"""Reading data files, or rows given in Python, one row at a time, each with its location for messages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bp_core.config import DataConfig
from bp_core.errors import BackpropagateError, FileEmpty

from .arrow import arrow_file, parquet
from .columns import Columns
from .context import Context, Fault, Tell, strict, unheard
from .hub import hub_rows, named
from .json_rows import json_rows
from .paths import ARROW, DELIMITERS, JSON, PARQUET, PROSE, files_of, is_pattern, suffix_of, unreadable_type
from .prose import prose_rows
from .python_rows import as_mapping, python_rows
from .tables import delimited
from .text import STDIN, missing, opened, place


@dataclass(frozen=True, slots=True)
class Row:
    """One row as written. `where` is `file:line`, `file: row n` in a JSON array or parquet file, or `row n` for
    Python data."""

    value: Mapping[str, object]
    where: str


Data = str | Path | Sequence[str | Path] | Iterable[Mapping[str, object]]
_Located = Iterator[tuple[Mapping[str, object], str]]


def read(
    data: Data,
    config: DataConfig | None = None,
    fault: Fault = strict,
    tell: Tell = unheard,
    first: int | None = None,
    evaluating: bool = False,
) -> Iterator[Row]:
    """The rows of a file, of the files in a folder or of a pattern (data/*.jsonl), of standard input ("-", JSON lines),
    of a data set of the hub (see `hub`), of several of these in a list, or of rows given in Python: dicts, an object of
    `datasets`, a table of pandas, polars or Arrow.

    Rows are read lazily, the `first` so many. Of data in train, validation and test parts the train part is read, or
    with `evaluating` another one. `config` says how: columns, roles, limits. `fault` is called with the
    error of a broken row; if it returns, the next row is read. `tell` gets remarks: files that are not read, what is a
    row. Raises FileMissing, FileUnreadable, FileTooLarge, FileEmpty, BrokenJson, PackageMissing, HubUnreachable,
    BadValue for a dict of splits, UnknownFormat for a missing column, and BadRow for a value that is not a row.
    """
    context = Context(config or DataConfig(), fault, tell, evaluating)
    columns = Columns(context.config)
    rows = itertools.islice(_read(data, context), first)
    return _renamed(rows, columns, context, lasting_text(data)) if columns else rows


def paths_of(data: Data) -> list[str | Path] | None:
    """The paths or hub names in `data`; None for rows given in Python."""
    if isinstance(data, str | Path):
        return [data]
    if isinstance(data, list | tuple) and data and all(isinstance(item, str | Path) for item in data):
        return list(data)
    return None


def require(data: Data) -> None:
    """Raises FileMissing if `data` is a missing file; hub names are not looked up."""
    for path in paths_of(data) or ():
        if str(path) == STDIN or Path(path).exists() or named(path):
            continue
        if is_pattern(Path(path)):
            files_of(Path(path), Context())
        else:
            raise missing(Path(path))


def lasting(data: Data) -> str | list[str] | None:
    """A name for `data` that works from any folder: absolute paths or hub names; None for stdin and Python rows."""
    paths = paths_of(data)
    if paths is None or any(str(path) == STDIN for path in paths):
        return None
    names = [str(path) if named(path) else str(Path(path).resolve()) for path in paths]
    return names[0] if isinstance(data, str | Path) else names


def lasting_text(data: Data) -> str | None:
    """The same in one line, for messages."""
    names = lasting(data)
    return ", ".join(names) if isinstance(names, list) else names


def _read(data: Data, context: Context) -> Iterator[Row]:
    paths = paths_of(data)
    if paths is None:
        return _filled(lambda context: _of_python(data, context), None, context)
    return itertools.chain.from_iterable(_of_path(path, context) for path in paths)


def _of_path(path: str | Path, context: Context) -> Iterator[Row]:
    name = named(path)
    if name:
        return _filled(lambda _: hub_rows(name), str(name), context)
    files = files_of(Path(path), context)
    if not files:
        context.fault(FileEmpty("there are no data files.", where=str(path)))
    return itertools.chain.from_iterable(_of_file(file, context) for file in files)


def _of_file(path: Path, context: Context) -> Iterator[Row]:
    return _filled(lambda context: _in_file(path, context), place(path), context)


def _of_python(data: Any, context: Context) -> _Located:
    for number, value in enumerate(python_rows(data), 1):
        where = f"row {number}"
        try:
            yield as_mapping(value, where), where
        except BackpropagateError as error:
            context.fault(error)


def _renamed(rows: Iterable[Row], columns: Columns, context: Context, name: str | None) -> Iterator[Row]:
    for row in rows:
        try:
            value = columns.rename(row.value, row.where)
        except BackpropagateError as error:
            context.fault(error)
        else:
            yield Row(value, row.where)
    columns.tell_unseen(context.tell, name)


def _filled(read: Callable[[Context], _Located], where: str | None, context: Context) -> Iterator[Row]:
    """What `read` reads; `context.fault` gets FileEmpty if there are no rows, and no errors that say why."""
    empty = True

    def fault(error: BackpropagateError) -> None:
        nonlocal empty
        empty = False
        context.fault(error)

    for value, at in read(replace(context, fault=fault)):
        empty = False
        yield Row(value, at)
    if empty:
        context.fault(FileEmpty("there are no rows.", where=where))


def _in_file(path: Path, context: Context) -> _Located:
    suffix = suffix_of(path) if str(path) != STDIN else ".jsonl"
    if suffix == PARQUET:
        yield from parquet(path, context)
        return
    if suffix in ARROW:
        yield from arrow_file(path, context)
        return
    name = place(path)
    with opened(path, context) as file:
        if suffix in PROSE:
            yield from prose_rows(file.lines(), name, context)
            return
        file.require_rows()
        if suffix in DELIMITERS:
            yield from delimited(file.lines(), DELIMITERS[suffix], name, context)
            return
        if suffix not in JSON and file.beginning[:1] not in ("{", "["):
            raise unreadable_type(path)
        yield from json_rows(file, name, suffix == ".json", context)
