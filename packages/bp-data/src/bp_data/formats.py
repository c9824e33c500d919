"""Telling data formats apart, row by row, and bringing each to one form: a conversation or raw text."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bp_core.errors import BadRow, NoTarget, UnknownFormat

from .files import Row
from .rendered import parse

Turn = dict[str, str]
Value = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Record:
    """A row in the one internal form. `content` is a conversation (turns with role and content) or raw text.

    `untrained` are the indices of assistant turns that carry no loss, because the row says so.
    """

    format: str
    content: list[Turn] | str
    where: str
    untrained: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """A data format: the keys that give it away (any one of the sets) and how its rows become the internal form."""

    name: str
    keys: tuple[tuple[str, ...], ...]
    convert: Callable[[Value, str], list[Turn] | str]
    turns: str = ""  # the key of the list of turns, if there is one


_ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "observation": "tool",
}
# Each would change what is learned, and we do not act on them: refuse rather than swallow.
_UNSUPPORTED = ("tools", "functions", "tool_calls", "function_call")
_LOSS = {"train": (True, False), "weight": (1, 0)}  # marks of a turn: with loss, without
_PREFERENCES = (
    ("chosen", "rejected"),
    ("kto_tag",),
    ("prompt", "completion", "label"),
    ("prompt", "response", "label"),
    ("messages", "label"),
)
_NOT_YET = (
    "Train on the good answers alone, as prompt/completion or messages, or wait for a version that has this method."
)
_PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))


def convert(row: Row) -> Record:
    """The row in internal form. Raises UnknownFormat, BadRow, NoTarget."""
    value = {key: item for key, item in row.value.items() if item is not None}  # merged tables fill gaps with null
    _refuse_preferences(value, row.where)
    for format in FORMATS:
        if any(all(key in value for key in keys) for keys in format.keys):
            _refuse_unsupported(value, row.where)
            content = format.convert(value, row.where)
            untrained = _untrained(value, format, content, row.where)
            _check_target(content, untrained, row.where)
            name = "rendered" if format.name == "text" and not isinstance(content, str) else format.name
            return Record(name, content, row.where, untrained)
    raise UnknownFormat(_unknown(list(row.value)), where=row.where)


def _openai(value: Value, where: str) -> list[Turn]:
    return _system(value, where) + _turns(value, "messages", where)


def _sharegpt(value: Value, where: str) -> list[Turn]:
    return _system(value, where) + _turns(value, "conversations", where)


def _alpaca(value: Value, where: str) -> list[Turn]:
    question = _string(value, "instruction", where)
    if value.get("input"):
        question += "\n\n" + _string(value, "input", where)
    answer = _string(value, "output", where)
    return [*_system(value, where), *_history(value, where), _turn("user", question), _turn("assistant", answer)]


def _history(value: Value, where: str) -> list[Turn]:
    """Earlier exchanges, as pairs of what the user said and what was answered."""
    pairs = value.get("history", [])
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise BadRow(f"'history' must be a list of [user, assistant] pairs, not {_show(pairs)}.", where=where)
    turns = []
    for number, (asked, answered) in enumerate(pairs, 1):
        pair, name = {"user": asked, "assistant": answered}, f"pair {number} of 'history'"
        turns += [_turn(role, _string(pair, role, where, name)) for role in pair]
    return turns


def _pair(value: Value, where: str) -> list[Turn]:
    prompt, answer = next(keys for keys in _PAIRS if all(key in value for key in keys))
    turns = [_turn("user", _string(value, prompt, where)), _turn("assistant", _string(value, answer, where))]
    return _system(value, where) + turns


def _raw(value: Value, where: str) -> list[Turn] | str:
    """Raw text, or the conversation that it was before some template rendered it."""
    text = _string(value, "text", where)
    turns = [_turn(_ROLES.get(role, ""), content) for role, content in parse(text) or []]
    answers = [turn["content"].strip() for turn in turns if turn["role"] == "assistant"]
    return turns if answers and all(answers) and all(turn["role"] for turn in turns) else text


# In this order: a row that fits several is the first, since the later keys are often copies for people to read.
FORMATS = (
    Format("openai", (("messages",),), _openai, "messages"),
    Format("sharegpt", (("conversations",),), _sharegpt, "conversations"),
    Format("alpaca", (("instruction", "output"),), _alpaca),
    Format("prompt", _PAIRS, _pair),
    Format("text", (("text",),), _raw),
)


def _turns(value: Value, key: str, where: str) -> list[Turn]:
    turns = value[key]
    if not isinstance(turns, list | tuple) or not turns:
        raise BadRow(f"{key!r} must be a list of turns, not {_show(turns)}.", where=where)
    return [_read_turn(turn, f"turn {number}", where) for number, turn in enumerate(turns, 1)]


def _read_turn(turn: object, name: str, where: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise BadRow(f"{name} must be an object with role and content, not {_show(turn)}.", where=where)
    _refuse_unsupported(turn, where, name)
    keys = ("from", "value") if "from" in turn and "value" in turn else ("role", "content")
    for key in keys:
        if key not in turn:
            raise BadRow(f"{name} has no {key!r}; it has {_listed(list(turn))}.", where=where)
    role = _string(turn, keys[0], where, name)
    if role.lower() not in _ROLES:
        near = difflib.get_close_matches(role.lower(), _ROLES, 1)
        hint = f"did you mean {near[0]!r}?" if near else "use system, user or assistant."
        raise BadRow(f"{name} has the unknown role {role!r}; {hint}", where=where)
    text = _content(turn, keys[1], where, name)
    return _turn(_ROLES[role.lower()], _reasoning(turn, _ROLES[role.lower()], where, name) + text)


def _content(turn: Value, key: str, where: str, name: str) -> str:
    """A string, or the texts of a list of parts in OpenAI's manner."""
    parts = turn[key]
    if not isinstance(parts, list | tuple) or not parts:
        return _string(turn, key, where, name)
    texts = []
    for number, part in enumerate(parts, 1):
        if not isinstance(part, Mapping) or part.get("type") != "text" or "text" not in part:
            message = f"part {number} of {key!r} of {name} is not text: {_show(part)}."
            raise BadRow(message, where=where, fix="Only text is learned; remove that part, or the row.")
        texts.append(_string(part, "text", where, f"part {number} of {name}"))
    return "".join(texts)


def _reasoning(turn: Value, role: str, where: str, name: str) -> str:
    """What the assistant thought before its answer, written as the models that think write it."""
    if turn.get("reasoning_content") in (None, ""):
        return ""
    if role != "assistant":
        raise BadRow(f"{name} has 'reasoning_content' but is not the assistant's.", where=where)
    return f"<think>\n{_string(turn, 'reasoning_content', where, name)}\n</think>\n\n"


def _untrained(value: Value, format: Format, content: list[Turn] | str, where: str) -> tuple[int, ...]:
    """Which assistant turns are marked as having no loss."""
    turns = value.get(format.turns)
    if not isinstance(turns, list | tuple) or isinstance(content, str):
        return ()
    first = len(content) - len(turns)  # the system text stands before them
    silent = [i for i, turn in enumerate(turns, 1) if _is_silent(turn, f"turn {i}", where)]
    return tuple(first + i - 1 for i in silent if content[first + i - 1]["role"] == "assistant")


def _is_silent(turn: Value, name: str, where: str) -> bool:
    silent = False
    for key, choices in _LOSS.items():
        mark = turn.get(key)
        if mark is not None and (not isinstance(mark, bool | int | float) or mark not in choices):
            raise BadRow(f"{key!r} of {name} must be one of {choices}, not {_show(mark)}.", where=where)
        silent = silent or (mark is not None and not mark)
    return silent


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _system(value: Value, where: str) -> list[Turn]:
    text = _string(value, "system", where) if "system" in value else ""
    return [_turn("system", text)] if text else []


def _string(value: Value, key: str, where: str, name: str = "the row") -> str:
    text = value[key]
    if not isinstance(text, str):
        raise BadRow(f"{key!r} of {name} must be a string, not {_show(text)}.", where=where)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"{key!r} of {name} holds half a character (a lone surrogate) at {error.start + 1}."
        raise BadRow(message, where=where) from error
    return text


def _refuse_preferences(value: Value, where: str) -> None:
    """Rows for another way of training would teach the bad answers too."""
    for keys in _PREFERENCES:
        if all(key in value for key in keys):
            message = f"with {_listed(list(keys))} this is a row for preference training, which is not available yet."
            raise UnknownFormat(message, where=where, fix=_NOT_YET)


def _refuse_unsupported(value: Value, where: str, name: str = "the row") -> None:
    for key in _UNSUPPORTED:
        if value.get(key) not in (None, "", [], {}):
            fix = f"Remove {key!r}, or the row."
            raise BadRow(f"{name} has {key!r}, which is not supported and would be lost.", where=where, fix=fix)


def _check_target(content: list[Turn] | str, untrained: tuple[int, ...], where: str) -> None:
    if isinstance(content, str):
        if not content.strip():
            raise NoTarget("the text is empty.", where=where)
        return
    answers = [number for number, turn in enumerate(content, 1) if turn["role"] == "assistant"]
    if not answers:
        raise NoTarget("there is no assistant turn.", where=where)
    answers = [number for number in answers if number - 1 not in untrained]
    if not answers:
        raise NoTarget("every assistant turn is marked as untrained.", where=where)
    for number in answers:
        if not content[number - 1]["content"].strip():
            raise NoTarget(f"the answer in turn {number} is empty.", where=where)


def _unknown(keys: list[str]) -> str:
    known = list(dict.fromkeys(key for format in FORMATS for names in format.keys for key in names))
    hints = []
    for key in map(str, keys):
        near = difflib.get_close_matches(key.lower(), known, 1)
        if near and near[0] != key:
            hints.append(f"did you mean {near[0]!r} instead of {key!r}?")
    return " ".join([f"the keys {_listed(keys)} belong to no known format.", *hints])


def _listed(keys: list[str]) -> str:
    return ", ".join(map(repr, keys[:12])) + (", …" if len(keys) > 12 else "") if keys else "(none)"


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
