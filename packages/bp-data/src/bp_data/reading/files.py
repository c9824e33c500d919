"""Reading data files, or rows given in Python, one row at a time, each with its location for messages."""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bp_core.errors import BackpropagateError, BadRow, BadValue, BrokenJson, FileEmpty, FileUnreadable, UnknownFormat

from .hub import HubName, hub_rows, named
from .tables import delimited, parquet
from .text import STDIN, Fault, Lines, lines, missing, place, strict

_JSON = {".json", ".jsonl", ".ndjson"}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_PROSE = {".txt", ".md"}
_PARQUET = ".parquet"
_ROWS = {*_JSON, *_DELIMITERS, _PARQUET}
_COMPRESSED = {".gz", ".zst"}
_TURN_LISTS = {"messages", "conversations"}  # a lone list under these is one row's turns, not a list of rows
_FIX = "Save the data as .jsonl (one JSON object a line), .json, .csv, .tsv, .parquet, .txt or .md."


@dataclass(frozen=True, slots=True)
class Row:
    """One row as written. `where` is `file:line`, `file: row n` in a JSON array or parquet file, or `row n` for
    Python data."""

    value: Mapping[str, object]
    where: str


Data = str | Path | Iterable[Mapping[str, object]]
_T = TypeVar("_T")


def read(data: Data, columns: Mapping[str, str] | None = None, fault: Fault = strict) -> Iterator[Row]:
    """The rows of a file, of the files in a folder, of standard input ("-", JSON lines), of a data set of the hub (see
    `hub`), or of dicts given directly; a `datasets` object gives such dicts.

    Rows are read lazily; only a JSON array is read whole. `columns` renames columns, from our name to the file's.
    `fault` is called with the error of a broken row; if it returns, the next row is read. Raises FileMissing,
    FileUnreadable, FileEmpty, BrokenJson, PackageMissing, HubUnreachable, BadValue for a dict of splits, UnknownFormat
    for a missing column, and BadRow for a value that is not a row.
    """
    if isinstance(data, Mapping):
        splits = ", ".join(map(repr, data))
        raise BadValue(f"this holds {splits}, not rows.", fix="Give one of them, as data['train'].")
    if isinstance(data, str | Path):
        name = named(data)
        rows = _filled(_hub(name), str(name), fault) if name else _read_path(Path(data), fault)
    else:
        values = ((value, f"row {number}") for number, value in enumerate(data, 1))
        rows = _filled(_each(values, _mapping, fault), None, fault)
    return _each(((row.value, row.where) for row in rows), renaming(columns), fault) if columns else rows


def require(data: Data) -> None:
    """Raises FileMissing if `data` is a missing file; hub names are not looked up."""
    if isinstance(data, str | Path) and str(data) != STDIN and not Path(data).exists() and not named(data):
        raise missing(Path(data))


def lasting(data: Data) -> str | None:
    """A name for `data` that works from any folder: absolute path or hub name; None for stdin and Python rows."""
    if not isinstance(data, str | Path) or str(data) == STDIN:
        return None
    return str(data) if named(data) else str(Path(data).resolve())


def columns_in(text: str) -> dict[str, str]:
    """The `columns` of `read` from one line: "prompt=question,completion=reply". Raises BadValue."""
    pairs = [pair.partition("=")[::2] for pair in text.split(",")] if text else []
    columns = {name.strip(): column.strip() for name, column in pairs}
    if len(columns) < len(pairs) or not all([*columns, *columns.values()]):
        message = f"columns {text!r} must be pairs of our name and the file's, each of ours once."
        raise BadValue(message, fix="Write it like prompt=question,completion=reply.")
    return columns


def _hub(name: HubName) -> Iterator[Row]:
    return (Row(value, where) for value, where in hub_rows(name))


def _each(
    items: Iterable[tuple[_T, str]], make: Callable[[_T, str], Mapping[str, object]], fault: Fault
) -> Iterator[Row]:
    """A row for each item and its location; `fault` gets the error of one that is not a row."""
    for item, where in items:
        try:
            value = make(item, where)
        except BackpropagateError as error:
            fault(error)
        else:
            yield Row(value, where)


def _filled(rows: Iterable[Row], where: str | None, fault: Fault) -> Iterator[Row]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        fault(FileEmpty("there are no rows.", where=where))


def renaming(columns: Mapping[str, str]) -> Callable[[Mapping[str, object], str], Mapping[str, object]]:
    """The function (value, where) that renames a row's `columns`; it raises UnknownFormat."""
    if not columns:
        return lambda value, where: value

    def rename(value: Mapping[str, object], where: str) -> Mapping[str, object]:
        theirs = {str(key): key for key in value}
        for name, column in columns.items():
            if column not in theirs:
                near = difflib.get_close_matches(column, theirs, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                message = f"there is no column {column!r} for {name!r}; the columns are {', '.join(map(repr, theirs))}."
                raise UnknownFormat(message + hint, where=where, fix="Name columns that every row has.")
        named = {name: value[column] for name, column in columns.items()}
        taken = {*columns, *columns.values()}
        return {**named, **{key: item for key, item in value.items() if key not in taken}}

    return rename


def _read_path(path: Path, fault: Fault) -> Iterator[Row]:
    if path.is_dir():
        rows = itertools.chain.from_iterable(_read_file(file, fault) for file in _inside(path))
        return _filled(rows, str(path), fault)
    return _read_file(path, fault)


def _inside(folder: Path) -> list[Path]:
    """The data files in a folder, subfolders included, hidden files not. Raises FileUnreadable for other files."""
    every = sorted(file for file in folder.rglob("*") if file.is_file())
    files = [file for file in every if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    kinds = {file: _suffix(file) for file in files}
    unknown = [file.relative_to(folder) for file, suffix in kinds.items() if suffix not in _ROWS | _PROSE]
    if unknown:
        fix = f"Move it out of the folder, or name one file. {_FIX}"
        raise FileUnreadable(f"the folder holds files that are not data: {_some(unknown)}.", where=str(folder), fix=fix)
    prose = [file.relative_to(folder) for file, suffix in kinds.items() if suffix in _PROSE]
    if prose and len(prose) < len(files):
        message = f"the folder holds rows, and also texts that may only describe them: {_some(prose)}."
        raise FileUnreadable(message, where=str(folder), fix="Move the one or the other out, or name one file.")
    return files


def _some(names: list[Path]) -> str:
    return ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _suffix(path: Path) -> str:
    """The suffix of the contents: .jsonl for rows.jsonl.gz."""
    name = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
    suffix = name.suffix.lower()
    return suffix + path.suffix.lower() if suffix == _PARQUET and name != path else suffix


def _read_file(path: Path, fault: Fault) -> Iterator[Row]:
    suffix, name = _suffix(path) if str(path) != STDIN else ".jsonl", place(path)
    rows: Iterator[Row]
    if suffix == _PARQUET:
        rows = (Row(value, where) for value, where in parquet(path, fault))
    elif suffix in _DELIMITERS:
        cells = delimited(lines(path, fault), _DELIMITERS[suffix], name, fault)
        rows = (Row(value, where) for value, where in cells)
    elif suffix in _PROSE:
        rows = _paragraphs(lines(path, fault), name)
    else:
        rows = _json(lines(path, fault), name, suffix, fault)
    return _filled(rows, name, fault)


def _json(source: Lines, name: str, suffix: str, fault: Fault) -> Iterator[Row]:
    """JSON lines, or one JSON document, told apart by the first two lines that are not blank."""
    head, texts = _head(source)
    first = texts[0].lstrip() if texts else ""
    if suffix not in _JSON and first[:1] not in ("{", "["):
        kind = suffix or "without an ending"
        raise FileUnreadable(f"files of type {kind} are not read.", where=name, fix=_FIX)
    everything = itertools.chain(head, source)
    if first.startswith("[") or (suffix == ".json" and first and not (texts[1:] and _is_object(first))):
        yield from _document("".join(line for _, line in everything), name, fault)
        return
    written = ((line, f"{name}:{number}") for number, line in everything if line.strip())
    yield from _each(written, lambda line, where: _object(_parse(line, where), where), fault)


def _head(source: Lines) -> tuple[list[tuple[int, str]], list[str]]:
    """The lines up to the second non-blank one, and the non-blank ones of them."""
    head: list[tuple[int, str]] = []
    texts: list[str] = []
    for number, line in source:
        head.append((number, line))
        if line.strip():
            texts.append(line)
        if len(texts) == 2:
            break
    return head, texts


def _is_object(line: str) -> bool:
    """Whether a line is a complete JSON object; then a .json file of several lines is really JSON lines."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _document(text: str, name: str, fault: Fault) -> Iterator[Row]:
    try:
        items = _items(text, name)
    except BrokenJson as error:
        fault(error)
        return
    yield from _each(((item, f"{name}: row {number}") for number, item in enumerate(items, 1)), _object, fault)


def _items(text: str, name: str) -> list[object]:
    """The rows of a JSON document: a list, an object with exactly one list of rows, or a single row."""
    value = _parse(text, name, document=True)
    if isinstance(value, dict):
        lists = [key for key, item in value.items() if isinstance(item, list)]
        value = value[lists[0]] if len(lists) == 1 and lists[0] not in _TURN_LISTS else [value]
    if not isinstance(value, list):
        raise BrokenJson(f"this file holds {_kind(value)}, not a list of objects.", where=name)
    return value


def _paragraphs(source: Lines, name: str) -> Iterator[Row]:
    """Texts with blank lines between them."""
    for blank, group in itertools.groupby(source, key=lambda pair: not pair[1].strip()):
        if not blank:
            number, first = next(group)
            text = first + "".join(line for _, line in group)
            yield Row({"text": text.replace("\r\n", "\n").strip()}, f"{name}:{number}")


def _parse(text: str, where: str, *, document: bool = False) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{where}:{error.lineno}" if document else where
        message = f"{error.msg[0].lower()}{error.msg[1:]} at character {error.colno}.{_hint(text, error, document)}"
        raise BrokenJson(message, where=where) from error
    except (ValueError, RecursionError) as error:
        raise BrokenJson(f"{error}.", where=where) from error


def _hint(text: str, error: json.JSONDecodeError, document: bool) -> str:
    at = text[error.pos : error.pos + 1]
    before = text[: error.pos].rstrip()[-1:]
    if at == "'":
        return " JSON wants double quotes."
    if at in ("}", "]") and before == ",":
        return " Remove the comma before it."
    if before == "," and error.msg.startswith("Illegal trailing comma"):
        return " Remove the comma."
    if not text[error.pos :].strip() or error.msg.startswith("Unterminated"):
        return " It ends too early; was it cut off?" if document else " An object must stand on one line, complete."
    if error.msg.startswith("Extra data"):
        return " Put each object on a line of its own."
    return ""


def _object(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise BrokenJson(f"this is {_kind(value)}, not an object.", where=where)
    return value


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise BadRow(f"this is {_kind(value)}, not a dict.", where=where)
    return value


def _kind(value: object) -> str:
    return {list: "a list", str: "a string", dict: "an object", type(None): "null"}.get(type(value), "a single value")
