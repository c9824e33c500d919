"""Reading the turns of a conversation, under all common names of roles and keys."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping

from bp_core.errors import BadRow

from ..reading.columns import ROLE_KEYS, ROLES
from .content import read_content
from .fields import Value, from_json, given, given_list, listed, shown, string
from .records import Turn
from .tool_calls import read_calls
from .tool_results import split_results

_CALLING = {"function_call", "tool_call", "tool_calls"}  # roles whose text is the call itself
TEXT_KEYS = ("content", "value", "text", "message", "utterance")
# Marks of a turn, by what they say for with loss and without.
_LOSS = {
    **dict.fromkeys(("train", "training", "trainable", "train_turn", "is_trained", "loss", "learn"), (1, 0)),
    **dict.fromkeys(("weight", "loss_weight", "loss_scale", "loss_mask"), (1, 0)),
    **dict.fromkeys(("masked", "ignore_loss", "no_loss"), (0, 1)),
}
# Marks that say more than yes and no, or that one tool means as the opposite of another.
_UNCLEAR = {
    "train_detail": "it marks parts of a turn",
    "mask": "some tools mean 'learned' by it, others 'not learned'",
}
_UNCLEAR_FIX = 'Mark the turn with "train": true or false instead.'
_REASONING = ("reasoning_content", "thinking", "reasoning")  # as transformers names it
LOSS_MARK = "train"  # the key of a turn without loss, until `without_loss_marks` removes it
# Keys that would change what is learned but are not supported in a turn: refused, not ignored.
_MISPLACED = ("tools", "functions")
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_REFUSED = {*_MISPLACED, *_MEDIA}
# Keys of turns that are read, or that say nothing of what is learned.
TURN_KEYS = {
    *ROLE_KEYS, *TEXT_KEYS, *_LOSS, *_UNCLEAR, *_REASONING, *_MISPLACED, *_MEDIA,
    *("tool_calls", "function_call", "tool_call_id", "name", "id", "index", "timestamp", "refusal", "annotations"),
}  # fmt: skip


def turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def read_turns(turns: object, name: str, where: str) -> list[Turn]:
    """The turns of a list, of JSON text of one, or of lists by key; those without loss get `train`: False.

    Raises BadRow.
    """
    if isinstance(turns, str) and turns.lstrip()[:1] in ("[", "{"):
        turns = from_json(turns, name, where)
    if isinstance(turns, Mapping):
        turns = _by_turn(turns)
    if not isinstance(turns, list | tuple) or not turns:
        raise BadRow(f"{name} must be a list of turns, not {shown(turns)}.", where=where)
    read = []
    for number, item in enumerate(turns, 1):
        name = f"turn {number}"
        read += [read_turn(part, name, where) for part in split_results(item, name, where)]
    return read


def are_turns(value: object) -> bool:
    """Whether the value is a list of turns."""
    return isinstance(value, list | tuple) and bool(value) and all(_is_turn(item) for item in value)


def _is_turn(item: object) -> bool:
    return isinstance(item, Mapping) and _first(item, ROLE_KEYS) is not None


def turns_in_text(text: str) -> list[Value] | None:
    """The turns that a text spells as JSON, as cells of tables do; None for other text."""
    if text.lstrip()[:1] != "[":
        return None
    try:
        value = from_json(text, "", "")
    except BadRow:
        return None
    return list(value) if are_turns(value) and isinstance(value, list) else None


def _by_turn(value: Value) -> object:
    """A list of turns in place of an object with a list for each key."""
    lists = {key: item for key, item in value.items() if item is not None}
    if not lists or not all(isinstance(item, list | tuple) for item in lists.values()):
        return [value]
    columns = [list(item) for item in lists.values() if isinstance(item, list | tuple)]
    if len({len(column) for column in columns}) != 1:
        return value
    cells = zip(*columns, strict=True)
    return [{key: item for key, item in zip(lists, row, strict=True) if item is not None} for row in cells]


def without_loss_marks(turns: list[Turn]) -> tuple[list[Turn], tuple[int, ...]]:
    """The turns without their marks, and the indices of assistant turns marked as without loss."""
    silent = [i for i, turn in enumerate(turns) if LOSS_MARK in turn and turn["role"] == "assistant"]
    return [{key: item for key, item in turn.items() if key != LOSS_MARK} for turn in turns], tuple(silent)


def read_turn(item: object, name: str, where: str) -> Turn:
    """One turn. Raises BadRow."""
    if not isinstance(item, Mapping):
        raise BadRow(f"{name} must be an object with role and content, not {shown(item)}.", where=where)
    _refuse(item, name, where)
    role_key, text_key = _keys(item, name, where)
    named = string(item, role_key, where, name).strip().lower()
    if named not in ROLES:
        raise _unknown_role(item[role_key], named, name, where)
    role = ROLES[named]
    if named in _CALLING and not _calls(item, role, name, where):
        read = {**turn("assistant", ""), "tool_calls": read_calls(item.get(text_key), name, where)}
        return {**read, **_more(item, role, name, where), **_mark(item, name, where)}
    calls = _calls(item, role, name, where)
    if role == "tool" and isinstance(item.get(text_key), Mapping):  # a result that was not written as text
        item = {**item, text_key: json.dumps(item[text_key], ensure_ascii=False, default=str)}
    content = read_content(item, text_key, where, name, optional=bool(calls))
    if len(content) > 1 and role != "assistant":
        raise BadRow(f"{name} has reasoning or calls but is not the assistant's.", where=where)
    return {**turn(role, ""), **calls, **content, **_more(item, role, name, where), **_mark(item, name, where)}


def _refuse(item: Value, name: str, where: str) -> None:
    """Raise BadRow for keys that would change what is learned, and that a turn cannot have."""
    if _REFUSED.isdisjoint(item):
        return
    for key in _MISPLACED:
        if given_list(item.get(key)):
            raise BadRow(f"{name} has {key!r}, which belongs to the row.", where=where, fix=f"Move {key!r} to the row.")
    for key in _MEDIA:
        if given_list(item.get(key)):
            raise BadRow(f"{name} has {key!r}.", where=where, fix="Only text is learned; remove the turn, or the row.")


def _keys(item: Value, name: str, where: str) -> tuple[str, str]:
    """The keys of the role and of the text. Raises BadRow if there is no role."""
    if "from" in item and "value" in item:
        return "from", "value"
    role_key = _first(item, ROLE_KEYS)
    if role_key is None:
        raise BadRow(f"{name} has no 'role'; it has {listed(list(item))}.", where=where)
    return role_key, _first(item, TEXT_KEYS) or next((key for key in TEXT_KEYS if key in item), "content")


def _first(item: Value, keys: tuple[str, ...]) -> str | None:
    for key in keys:
        if item.get(key) is not None:
            return key
    return None


def _unknown_role(role: object, named: str, name: str, where: str) -> BadRow:
    near = difflib.get_close_matches(named, ROLES, 1)
    hint = f"did you mean {near[0]!r}?" if near else "use system, user, assistant or tool."
    fix = f"Correct it, or say what it is, such as --roles user={named}" if named else "Give the turn a role."
    return BadRow(f"{name} has the unknown role {role!r}; {hint}", where=where, fix=fix)


def _calls(item: Value, role: str, name: str, where: str) -> Turn:
    """The calls of an assistant turn: `tool_calls`, or the older single `function_call`."""
    for key in ("tool_calls", "function_call"):
        if given_list(item.get(key)):
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
    """The mark of a turn without loss. Raises BadRow for one that says more than yes and no, or is not clear."""
    if _MARKS.isdisjoint(item):
        return {}
    for key, why in _UNCLEAR.items():
        if given(item.get(key)):
            raise BadRow(f"{key!r} of {name} is not read: {why}.", where=where, fix=_UNCLEAR_FIX)
    silent = False
    for key, choices in _LOSS.items():
        mark = item.get(key)
        if mark is not None and (not isinstance(mark, bool | int | float) or mark not in choices):
            message = f"{key!r} of {name} must be one of (True, False, 1, 0), not {shown(mark)}."
            raise BadRow(message, where=where, fix=_UNCLEAR_FIX)
        silent = silent or (mark is not None and mark == choices[1])
    return {LOSS_MARK: False} if silent else {}


_MARKS = {*_LOSS, *_UNCLEAR}
