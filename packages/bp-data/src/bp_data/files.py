"""Reading: a data file, or rows given in Python, becomes rows that know where they stand."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bp_core.errors import BadRow, BrokenJson, FileEmpty, FileMissing, FileUnreadable

_JSON = {".json", ".jsonl", ".ndjson"}
_PROSE = {".txt", ".md"}
_TURN_LISTS = {"messages", "conversations"}  # a lone list under these is one row's turns, not a list of rows
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was written. `where` is `file:line`, `file: row n` in a JSON array, or `row n` for Python data."""

    value: Mapping[str, object]
    where: str


Data = str | Path | Iterable[Mapping[str, object]]


def read(data: Data) -> list[Row]:
    """The rows of a .jsonl, .json, .txt or .md file, or of dicts given directly.

    Raises FileMissing, FileUnreadable, FileEmpty, BrokenJson, and BadRow for Python rows that are no dicts.
    """
    if isinstance(data, str | Path):
        rows = _read_file(Path(data))
    else:
        rows = [Row(_mapping(value, f"row {i}"), f"row {i}") for i, value in enumerate(data, 1)]
    if not rows:
        raise FileEmpty("there are no rows.", where=str(data) if isinstance(data, str | Path) else None)
    return rows


def _read_file(path: Path) -> list[Row]:
    text = _text(path)
    start = text.lstrip()[:1]
    suffix = path.suffix.lower()
    if suffix in _PROSE:
        return _paragraphs(text, path)
    if suffix not in _JSON and start not in ("{", "["):
        fix = "Save the data as .jsonl (one JSON object a line), .json, .txt or .md."
        raise FileUnreadable(f"files of type {suffix or 'without an ending'} are not read.", where=str(path), fix=fix)
    if start == "[" or (suffix == ".json" and start and not _is_lines(text)):
        return _document(text, path)
    return _lines(text, path)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileMissing("there is no such file." + _near(path), where=str(path)) from error
    except IsADirectoryError as error:
        raise _folder(path) from error
    except OSError as error:
        if path.is_dir():  # Windows says "permission denied" for a folder
            raise _folder(path) from error
        raise FileUnreadable(f"the file cannot be read ({error.strerror}).", where=str(path)) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16, not UTF-8" if content.startswith(_UTF16) else f"not UTF-8 text ({error.reason})"
        line = content.count(b"\n", 0, error.start) + 1
        raise FileUnreadable(f"the file is {kind}.", where=f"{path}:{line}") from error


def _folder(path: Path) -> FileUnreadable:
    inside = sorted(item.name for item in path.iterdir() if item.suffix.lower() in _JSON | _PROSE)
    fix = f"Name a file inside it, such as {path / inside[0]}." if inside else "Name a data file."
    return FileUnreadable("this is a folder, not a file.", where=str(path), fix=fix)


def _near(path: Path) -> str:
    names = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _is_lines(text: str) -> bool:
    """Whether a .json file holds JSON lines in truth: its first line of several is complete by itself."""
    first, _, rest = text.lstrip().partition("\n")
    try:
        return bool(rest.strip()) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _lines(text: str, path: Path) -> list[Row]:
    # Only "\n" ends a line: U+2028 and its like may stand inside a JSON string.
    lines = ((f"{path}:{number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    return [Row(_object(_parse(line, where), where), where) for where, line in lines]


def _document(text: str, path: Path) -> list[Row]:
    value = _parse(text, str(path), document=True)
    if isinstance(value, dict):
        lists = [key for key, item in value.items() if isinstance(item, list)]
        value = value[lists[0]] if len(lists) == 1 and lists[0] not in _TURN_LISTS else [value]
    if not isinstance(value, list):
        raise BrokenJson(f"this file holds {_kind(value)}, not a list of objects.", where=str(path))
    places = ((item, f"{path}: row {number}") for number, item in enumerate(value, 1))
    return [Row(_object(item, where), where) for item, where in places]


def _paragraphs(text: str, path: Path) -> list[Row]:
    rows = []
    for match in re.finditer(r"\S.*(?:\n(?![^\S\n]*(?:\n|\Z)).*)*", text.replace("\r\n", "\n")):
        line = match.string.count("\n", 0, match.start()) + 1
        rows.append(Row({"text": match.group().rstrip()}, f"{path}:{line}"))
    return rows


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
