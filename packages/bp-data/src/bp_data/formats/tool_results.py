"""Results of tools that stand in the user's turns, as Anthropic's interface has them, become turns of tools."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..reading.columns import ROLE_KEYS, ROLES
from .content import read_text
from .fields import Value, given

_RESULT = "tool_result"
_ERROR = "Error: "  # OpenAI's turns have no mark for a result that is an error, so its text says so


def split_results(item: object, name: str, where: str) -> list[object]:
    """The turn itself; one with results as a turn of each result, in order, with the user's words between them.

    Raises BadRow for a result that is not text.
    """
    parts = item.get("content") if isinstance(item, Mapping) else None
    if not isinstance(item, Mapping) or not isinstance(parts, list | tuple) or not any(map(_is_result, parts)):
        return [item]
    role = next((str(item[key]) for key in ROLE_KEYS if item.get(key)), "")
    if ROLES.get(role.strip().lower()) not in ("user", "tool"):
        return [item]
    split: list[object] = []
    words: list[object] = []
    for number, part in enumerate(parts, 1):
        if not isinstance(part, Mapping) or not _is_result(part):
            words.append(part)
            continue
        split += _turn_of(words, item)
        words = []
        split.append(_result(part, f"part {number} of {name}", where))
    return [*split, *_turn_of(words, item)]


def _is_result(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == _RESULT


def _turn_of(words: list[object], item: Value) -> list[object]:
    return [{**item, "content": words}] if words else []


def _result(part: Value, name: str, where: str) -> Value:
    text = _text(part, name, where)
    if part.get("is_error") and not text.lower().startswith("error"):
        text = _ERROR + text
    answered = {"tool_call_id": part["tool_use_id"]} if given(part.get("tool_use_id")) else {}
    return {"role": "tool", "content": text, **answered}


def _text(part: Value, name: str, where: str) -> str:
    """The text of a result: a text, parts of text, an object, or nothing."""
    content = part.get("content")
    if isinstance(content, Mapping):
        return json.dumps(content, ensure_ascii=False, default=str)
    return read_text(part, "content", where, name, optional=True)
