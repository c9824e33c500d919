"""Reading the turns of a conversation, under all common names of roles and keys."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from bp_core.errors import BadRow

from .fields import Value, given, listed, shown, string
from .records import Turn
from .tool_calls import read_calls

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
_CALLING = "function_call"  # the role whose text is the call itself
_LOSS = {"train": (True, False), "weight": (1, 0), "loss_weight": (1, 0)}  # marks of a turn: with loss, without
_REASONING = ("reasoning_content", "thinking", "reasoning")  # as transformers names it
LOSS_MARK = "train"  # the key of a turn without loss, until `without_loss_marks` removes it
# Keys that would change what is learned but are not supported in a turn: refused, not ignored.
_MISPLACED = ("tools", "functions")


def turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def read_turns(turns: object, name: str, where: str) -> list[Turn]:
    """Read a list of turns; those without loss get `train`: False. Raises BadRow."""
    if not isinstance(turns, list | tuple) or not turns:
        raise BadRow(f"{name} must be a list of turns, not {shown(turns)}.", where=where)
    return [read_turn(item, f"turn {number}", where) for number, item in enumerate(turns, 1)]


def without_loss_marks(turns: list[Turn]) -> tuple[list[Turn], tuple[int, ...]]:
    """The turns without their marks, and the indices of assistant turns marked as without loss."""
    silent = [i for i, turn in enumerate(turns) if LOSS_MARK in turn and turn["role"] == "assistant"]
    return [{key: item for key, item in turn.items() if key != LOSS_MARK} for turn in turns], tuple(silent)


def read_turn(item: object, name: str, where: str) -> Turn:
    """One turn. Raises BadRow."""
    if not isinstance(item, Mapping):
        raise BadRow(f"{name} must be an object with role and content, not {shown(item)}.", where=where)
    for key in _MISPLACED:
        if given(item.get(key)):
            raise BadRow(f"{name} has {key!r}, which belongs to the row.", where=where, fix=f"Move {key!r} to the row.")
    role_key, text_key = ("from", "value") if "from" in item and "value" in item else ("role", "content")
    if role_key not in item:
        raise BadRow(f"{name} has no {role_key!r}; it has {listed(list(item))}.", where=where)
    named = string(item, role_key, where, name).lower()
    if named not in ROLES:
        near = difflib.get_close_matches(named, ROLES, 1)
        hint = f"did you mean {near[0]!r}?" if near else "use system, user, assistant or tool."
        raise BadRow(f"{name} has the unknown role {item[role_key]!r}; {hint}", where=where)
    if named == _CALLING:
        read = {**turn("assistant", ""), "tool_calls": read_calls(item.get(text_key), name, where)}
    else:
        read = {**turn(ROLES[named], ""), **_calls(item, ROLES[named], name, where)}
        read["content"] = _content(item, text_key, where, name, optional="tool_calls" in read)
    return {**read, **_more(item, read["role"], name, where), **_mark(item, name, where)}


def _content(item: Value, key: str, where: str, name: str, *, optional: bool) -> str:
    """The content: a string, or OpenAI's list of text parts. With `optional`, for tool calls, it may be missing."""
    if optional and not given(item.get(key)):
        return ""
    if key not in item:
        raise BadRow(f"{name} has no {key!r}; it has {listed(list(item))}.", where=where)
    parts = item[key]
    if not isinstance(parts, list | tuple) or not parts:
        return string(item, key, where, name)
    texts = []
    for number, part in enumerate(parts, 1):
        held = _text_key(part)
        if held is None:
            message = f"part {number} of {key!r} of {name} is not text: {shown(part)}."
            raise BadRow(message, where=where, fix="Only text is learned; remove that part, or the row.")
        texts.append(string(part, held, where, f"part {number} of {name}"))
    return "".join(texts)


def _text_key(part: object) -> str | None:
    """The key of a part's text; None if the part is not text."""
    if not isinstance(part, Mapping) or part.get("type") != "text":
        return None
    return next((key for key in ("text", "value") if key in part), None)


def _calls(item: Value, role: str, name: str, where: str) -> Turn:
    """The calls of an assistant turn: `tool_calls`, or the older single `function_call`."""
    for key in ("tool_calls", "function_call"):
        if given(item.get(key)):
            if role != "assistant":
                raise BadRow(f"{name} has {key!r} but is not the assistant's.", where=where)
            return {"tool_calls": read_calls(item[key], name, where)}
    return {}


def _more(item: Value, role: str, name: str, where: str) -> Turn:
    """Other keys that a template may write: the assistant's reasoning, a tool's name and call id."""
    if role == "tool":
        return {key: string(item, key, where, name) for key in ("name", "tool_call_id") if given(item.get(key))}
    for key in _REASONING:
        if given(item.get(key)):
            if role != "assistant":
                raise BadRow(f"{name} has {key!r} but is not the assistant's.", where=where)
            return {"reasoning_content": string(item, key, where, name)}
    return {}


def _mark(item: Value, name: str, where: str) -> Turn:
    silent = False
    for key, choices in _LOSS.items():
        mark = item.get(key)
        if mark is not None and (not isinstance(mark, bool | int | float) or mark not in choices):
            raise BadRow(f"{key!r} of {name} must be one of {choices}, not {shown(mark)}.", where=where)
        silent = silent or (mark is not None and not mark)
    return {LOSS_MARK: False} if silent else {}
