"""JSON files as rows: an object a line, an array of objects, or an object that holds the rows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bp_core.errors import BackpropagateError, BrokenJson

from .context import Context
from .splits import TRAIN, part_to_read, split_named, tell_others
from .text import Lines, TextFile, too_large

_TURN_LISTS = {"messages", "conversations"}  # a lone list under these is one row's turns, not a list of rows
_TURN_KEYS = {"role", "from"}
Rows = Iterator[tuple[Mapping[str, object], str]]


class RepeatedKey(ValueError):
    """A key stands twice in an object, with two values."""


def parse(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, RepeatedKey among them, and RecursionError."""
    return _DECODER.decode(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    for key, item in pairs:
        if value[key] != item:
            raise RepeatedKey(f"the key {key!r} is there twice, with two values")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def json_rows(file: TextFile, name: str, is_document: bool, context: Context) -> Rows:
    """The rows. `is_document`: by its name the file is one JSON value, unless its first line is already an object."""
    if file.beginning.startswith("["):
        return _array(file.chunks(), name, context)
    lines = file.lines()
    head, texts = _head(lines)
    everything = itertools.chain(head, lines)
    if is_document and texts and not (texts[1:] and _is_object(texts[0])):
        return _document(everything, name, context)
    return _lines(everything, name, context)


def _lines(lines: Iterable[tuple[int, str]], name: str, context: Context) -> Rows:
    for number, line in lines:
        if line.isspace():
            continue
        where = f"{name}:{number}"
        try:
            yield as_object(_parsed(line, where), where), where
        except BackpropagateError as error:
            context.fault(error)


def _head(lines: Lines) -> tuple[list[tuple[int, str]], list[str]]:
    """The lines up to the second non-blank one, and the non-blank ones of them."""
    head: list[tuple[int, str]] = []
    texts: list[str] = []
    for number, line in lines:
        head.append((number, line))
        if line.strip():
            texts.append(line)
        if len(texts) == 2:
            break
    return head, texts


def _is_object(line: str) -> bool:
    """Whether a line is a complete JSON object; then a .json file of several lines is really JSON lines."""
    try:
        return isinstance(parse(line), dict)
    except (ValueError, RecursionError):
        return False


def _array(chunks: Iterator[str], name: str, context: Context) -> Rows:
    """The objects of an array, one at a time, so that memory holds one chunk and one object."""
    items = _Items(chunks, name, context)
    number = 0
    while not items.over:
        number += 1
        where = f"{name}: row {number}"
        try:
            item = items.next(where)
            if not items.over:
                yield as_object(item, where), where
        except BackpropagateError as error:
            context.fault(error)


class _Items:
    """Takes one item after another off the text of an array. `over`: there are no more, or none that can be found."""

    def __init__(self, chunks: Iterator[str], name: str, context: Context) -> None:
        self._chunks, self._name, self._context = chunks, name, context
        self._text = ""
        self._line = 1  # the line on which `_text` begins
        self._first = True
        self.over = False

    def next(self, where: str) -> object:
        """The next item, which is at `where`; None at the end. Raises BrokenJson, FileTooLarge."""
        sign, first = self._sign(), self._first
        if first:
            self._take(1)  # the opening bracket
            self._first = False
            sign = self._sign()
        if sign == "]":
            self._end()
            return None
        if first:
            return self._item(where)
        if sign == ",":
            self._take(1)
            self._sign()
        else:
            raise self._broken(json.JSONDecodeError("Expecting ',' delimiter", self._text, 0))
        return self._item(where)

    def _item(self, where: str) -> object:
        longest = self._context.row_bytes
        while True:
            try:
                item, end = _DECODER.raw_decode(self._text)
            except json.JSONDecodeError as error:
                if len(self._text) > longest:
                    self.over = True
                    raise too_large(where, self._context) from error
                if not self._more(len(self._text)):
                    raise self._broken(error) from error
            except (ValueError, RecursionError) as error:
                self.over = True
                raise _unparsed(error, f"{self._name}:{self._line}") from error
            else:
                if end < len(self._text) or not self._more(1):  # else a number may go on in the next chunk
                    self._take(end)
                    if end > longest:
                        raise too_large(where, self._context)
                    return item

    def _end(self) -> None:
        self._take(1)
        if self._sign():
            raise self._broken(json.JSONDecodeError("Extra data", self._text, 0))
        self.over = True

    def _sign(self) -> str:
        """The next sign that is no white space; "" at the end."""
        while True:
            self._take(len(self._text) - len(self._text.lstrip(" \t\r\n")))
            if self._text or not self._more(1):
                return self._text[:1]

    def _take(self, count: int) -> None:
        self._line += self._text.count("\n", 0, count)
        self._text = self._text[count:]

    def _more(self, characters: int) -> bool:
        """Read on by at least so many characters; whether there were any."""
        parts, length = [self._text], 0
        for chunk in self._chunks:
            parts.append(chunk)
            length += len(chunk)
            if length >= characters:
                break
        self._text = "".join(parts)
        return length > 0

    def _broken(self, error: json.JSONDecodeError) -> BrokenJson:
        self.over = True
        line = self._line + self._text.count("\n", 0, error.pos)
        return BrokenJson(_message(self._text, error, whole=True), where=f"{self._name}:{line}")


def _document(lines: Iterable[tuple[int, str]], name: str, context: Context) -> Rows:
    """The rows of a JSON object, which is held whole."""
    texts, size = [], 0
    for _, line in lines:
        texts.append(line)
        size += len(line)
        if size > context.row_bytes:
            context.fault(too_large(name, context))
            return
    try:
        items = rows_in(_parsed("".join(texts), name, whole=True), name, context)
    except BrokenJson as error:
        context.fault(error)
        return
    for number, item in enumerate(items, 1):
        where = f"{name}: row {number}"
        try:
            yield as_object(item, where), where
        except BackpropagateError as error:
            context.fault(error)


def rows_in(value: object, name: str, context: Context) -> list[Any]:
    """The rows that a value holds: a table of columns, the train split, one list of rows, or a single row."""
    if not isinstance(value, Mapping):
        raise BrokenJson(f"this file holds {kind_of(value)}, not a list of objects.", where=name)
    table = columns_to_rows(value)
    if table is not None:
        return table
    splits = {key: split_named(str(key)) for key, item in value.items() if isinstance(item, list)}
    if TRAIN in splits.values() and None not in splits.values() and len(splits) == len(value):
        parts = part_to_read(splits, context.evaluating)
        others = [repr(key) for key in splits if key not in parts]
        tell_others(others, name, context, "Save that part to a file of its own.")
        return [row for key in parts for row in value[key]]
    lists = [key for key, item in value.items() if isinstance(item, list)]
    if len(lists) == 1 and lists[0] not in _TURN_LISTS and _are_rows(value[lists[0]]):
        return list(value[lists[0]])
    if value and all(isinstance(item, Mapping) and str(key).isdecimal() for key, item in value.items()):
        return list(value.values())  # pandas' orient="index"
    return [value]


def columns_to_rows(value: Mapping[Any, Any]) -> list[dict[str, object]] | None:
    """The rows of a table given as columns: lists of one length, or pandas' objects of row numbers; None if it is none.

    Lists of turns under `prompt` and `completion` are one row.
    """
    columns = {}
    for name, cells in value.items():
        if isinstance(cells, Mapping) and cells and all(str(key).isdecimal() for key in cells):
            cells = list(cells.values())
        if not isinstance(cells, list) or _are_turns(cells):
            return None
        columns[str(name)] = cells
    if len({len(cells) for cells in columns.values()}) != 1:
        return None
    if len(columns) == 1 and all(isinstance(cell, Mapping) for cells in columns.values() for cell in cells):
        return None
    if any(split_named(name) for name in columns):
        return None
    names = list(columns)
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _are_rows(items: list[Any]) -> bool:
    return all(isinstance(item, Mapping) for item in items) and not _are_turns(items)


def _are_turns(items: object) -> bool:
    return isinstance(items, list) and any(isinstance(item, Mapping) and _TURN_KEYS & item.keys() for item in items)


def as_object(value: object, where: str) -> Mapping[str, object]:
    """The value, if it is an object. Raises BrokenJson."""
    if not isinstance(value, dict):
        raise BrokenJson(f"this is {kind_of(value)}, not an object.", where=where)
    return value


def kind_of(value: object) -> str:
    """What a value is, for a message."""
    return {list: "a list", str: "a string", dict: "an object", type(None): "null"}.get(type(value), "a single value")


def _parsed(text: str, where: str, *, whole: bool = False) -> object:
    try:
        return parse(text)
    except json.JSONDecodeError as error:
        where = f"{where}:{error.lineno}" if whole else where
        raise BrokenJson(_message(text, error, whole), where=where) from error
    except (ValueError, RecursionError) as error:
        raise _unparsed(error, where) from error


def _unparsed(error: Exception, where: str) -> BrokenJson:
    """The error for JSON that breaks no rule of writing, but cannot be taken."""
    fix = "Remove one of them, or give them two names." if isinstance(error, RepeatedKey) else None
    return BrokenJson(f"{error}.", where=where, fix=fix)


def _message(text: str, error: json.JSONDecodeError, whole: bool) -> str:
    return f"{error.msg[0].lower()}{error.msg[1:]} at character {error.colno}.{_hint(text, error, whole)}"


def _hint(text: str, error: json.JSONDecodeError, whole: bool) -> str:
    rest = text[error.pos :]
    before = text[: error.pos].rstrip()[-1:]
    if rest[:1] == "'":
        return " JSON wants double quotes."
    if rest[:1] in ("}", "]") and before == ",":
        return " Remove the comma before it."
    if before == "," and error.msg.startswith("Illegal trailing comma"):
        return " Remove the comma."
    if not rest.strip() or error.msg.startswith("Unterminated"):
        return " It ends too early; was it cut off?" if whole else " An object must stand on one line, complete."
    if error.msg.startswith("Extra data"):
        if rest.strip() == ",":
            return " Remove the comma at the end of the line."
        return " More stands after its end." if whole else " Put each object on a line of its own."
    return ""
