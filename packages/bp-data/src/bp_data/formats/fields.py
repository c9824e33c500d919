"""Reading single values of a row, with errors that name the value and its location."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping

from bp_core.errors import BadRow

from ..reading.json_rows import parse

Value = Mapping[str, object]
ROW = "the row"
_EMPTY_TEXTS = ("", "null", "None", "[]", "{}", "NaN", "nan")  # what tables write for a list that is not there


def string(value: Value, key: str, where: str, name: str = ROW) -> str:
    """The text under `key`. Raises BadRow if it is not text, or not valid Unicode."""
    text = value[key]
    if not isinstance(text, str):
        raise BadRow(f"{key!r} of {name} must be a string, not {shown(text)}.", where=where)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"{key!r} of {name} holds half a character (a lone surrogate) at {error.start + 1}."
        raise BadRow(message, where=where) from error
    return text


def from_json(text: str, name: str, where: str) -> object:
    """The value of JSON text inside a row, or of a Python literal, which tables write for lists. Raises BadRow."""
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise BadRow(f"{name} is not valid JSON ({error}): {shown(text)}.", where=where) from error


def plain(value: object, name: str, where: str) -> None:
    """Raises BadRow if the value cannot be written as JSON in UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow(f"{name} cannot be written as JSON ({error}).", where=where) from error


def given(value: object) -> bool:
    """Whether a value is not empty; merged tables fill gaps with null, empty text or empty lists."""
    return value not in (None, "", [], {}, ())


def given_list(value: object) -> bool:
    """Whether a value that should be a list or an object, or JSON text of one, is not empty."""
    return given(value) and not (isinstance(value, str) and value.strip() in _EMPTY_TEXTS)


def listed(keys: list[str]) -> str:
    """The first dozen keys, for a message."""
    return ", ".join(map(repr, keys[:12])) + (", …" if len(keys) > 12 else "") if keys else "(none)"


def shown(value: object) -> str:
    """A value, shortened, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
