"""The content of a turn: a text, or a list of parts: text, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Mapping

from bp_core.errors import BadRow

from .fields import Value, given, listed, plain, shown, string
from .records import Turn
from .tool_calls import read_call, read_calls

_TEXT = {"text", "input_text", "output_text"}
_THOUGHT = {"reasoning", "thinking"}
_CALL = {"tool_call", "function_call"}
_USE = "tool_use"  # Anthropic's call, which is the part itself
_BETWEEN = "\n\n"  # texts that a call stood between
_KEYS = ("text", "value", "thinking", "reasoning", "content")


def read_content(item: Value, key: str, where: str, name: str, *, optional: bool) -> Turn:
    """`content` of a turn, with `reasoning_content` and `tool_calls` where its parts have them. Raises BadRow.

    With `optional`, for turns that have calls, it may be missing.
    """
    if optional and not given(item.get(key)):
        return {"content": ""}
    if key not in item:
        raise BadRow(f"{name} has no {key!r}; it has {listed(list(item))}.", where=where)
    parts = item[key]
    if not isinstance(parts, list | tuple) or not parts:
        return {"content": string(item, key, where, name)}
    return _joined(parts, key, where, name)


def read_text(item: Value, key: str, where: str, name: str, *, optional: bool = False) -> str:
    """The text of a turn that is not the assistant's. Raises BadRow for one with reasoning or calls."""
    read = read_content(item, key, where, name, optional=optional)
    if len(read) > 1:
        raise BadRow(f"{key!r} of {name} has reasoning or calls but is not the assistant's.", where=where)
    return str(read["content"])


def _joined(parts: list[object] | tuple[object, ...], key: str, where: str, name: str) -> Turn:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Turn] = []
    between = ""
    for number, part in enumerate(parts, 1):
        kind = str(part.get("type")) if isinstance(part, Mapping) else ""
        part_name = f"part {number} of {name}"
        if kind == _USE:
            calls.append(read_call(part, part_name, where))
            between = _BETWEEN if texts else ""
            continue
        held = next((each for each in _KEYS if isinstance(part, Mapping) and each in part), None)
        if not isinstance(part, Mapping) or held is None or kind not in _TEXT | _THOUGHT | _CALL:
            message = f"part {number} of {key!r} of {name} is not text: {shown(part)}."
            raise BadRow(message, where=where, fix="Only text is learned; remove that part, or the row.")
        if kind in _CALL:
            calls += read_calls(part[held], part_name, where)
        elif kind in _THOUGHT:
            thoughts.append(string(part, held, where, part_name))
        else:
            texts.append(between + string(part, held, where, part_name))
            between = ""
    plain(calls, f"a tool call of {name}", where)
    return _read(texts, thoughts, calls)


def _read(texts: list[str], thoughts: list[str], calls: list[Turn]) -> Turn:
    read: Turn = {"content": "".join(texts)}
    if thoughts:
        read["reasoning_content"] = "".join(thoughts)
    if calls:
        read["tool_calls"] = calls
    return read
