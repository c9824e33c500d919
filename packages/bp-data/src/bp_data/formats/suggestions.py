"""Suggestions for --columns and --ignore-columns: each is tried on the row before it is shown."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from bp_core.errors import BackpropagateError, UnknownFormat

from ..reading.columns import written, written_names
from .conversations import HISTORY, INPUT, PAIRS, SYSTEM
from .fields import Value
from .preferences import near_compared, twins, worse_answer
from .records import AnyRecord
from .unused import REASONING, THOUGHTS

_NEAR = 0.75  # similarity of a misspelt name, as in difflib
_ANSWERS = (
    "completion", "response", "answer", "reply", "output", "solution", "assistant", "target", "bot", "model_output",
    "generation", "assistant_response", "gpt", "ai", "outputs", "responses", "answers", "completions", "label_text",
)  # fmt: skip
_QUESTIONS = (
    "prompt", "question", "query", "input", "instruction", "problem", "user", "text_input", "request", "human",
    "inputs", "user_input", "prompts", "questions", "instructions", "user_message", "q",
)  # fmt: skip
_INPUTS = (*INPUT, "passage", "document", "article", "background", "paragraph", "inputs", "contexts", "schema")
_SYSTEMS = (*SYSTEM, "systemprompt", "sys", "sys_prompt", "system_prompts", "persona")
# Other names of our columns, the nearest first.
_ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": _QUESTIONS,
    "question": _QUESTIONS,
    "instruction": ("instruction", "instructions", "task_instruction"),
    "completion": _ANSWERS,
    "response": _ANSWERS,
    "answer": _ANSWERS,
    "output": ("output", "outputs", *_ANSWERS),
    "messages": ("messages", "message", "conversation", "dialog", "dialogue", "chat", "turns", "msgs", "dialogs"),
    "conversations": ("conversations", "conversation", "dialogue"),
    "text": ("text", "content", "texts", "document", "body", "raw_text", "story", "article", "contents"),
    "input": _INPUTS,
    "system": _SYSTEMS,
    HISTORY: ("history", "histories", "chat_history"),
}
_WANTED = (("messages",), ("conversations",), ("instruction", "output"), *PAIRS)
_BESIDE = {"instruction": ("input", "system", HISTORY), "prompt": ("input", "system", HISTORY), "messages": ("system",)}
_COMPARE = "Name the better answer chosen, the other rejected, and the prompt prompt."
Convert = Callable[[Value], AnyRecord]


def suggest(value: Value, convert: Convert) -> str:
    """A value for --columns that makes the row a known format, with every near column in it; "" if none does."""
    keys = [str(key) for key in value]
    compared = near_compared(keys)
    if compared:
        prompt = _found(("prompt",), keys, set(compared.values()))
        for columns in ({**prompt, **compared}, compared):
            if _works(columns, value, convert):
                return written(columns)
        return ""
    for wanted in (*_WANTED, ("text",)):
        columns = _found(wanted, keys, set())
        if len(columns) == len(wanted):
            more = _found(_BESIDE.get(wanted[0], ()), keys, set(columns.values()))
            if _works(columns | more, value, convert):
                return written(columns | more)
    return ""


def refuse_compared(value: Value, unused: tuple[str, ...], where: str, convert: Convert) -> None:
    """Raise UnknownFormat for a row that compares answers under other names than ours.

    `unused` are the columns that would not be learned; the better answer may be among the others.
    """
    worse = worse_answer(unused)
    if worse:
        ways = [{"chosen": name, "rejected": worse} for name in _ANSWERS if name in value]
        works = next((way for way in ways if _works(way, value, convert)), None)
        use = f"To compare: --columns {written(works)}; else" if works else f"{_COMPARE} Else"
        message = f"{worse!r} looks like the worse of two answers, and only the other one would be learned."
        raise UnknownFormat(message, where=where, fix=f"{use}: --ignore-columns {written_names([worse])}")
    pair = twins(value)
    if pair:
        known = {*pair} <= {*unused}
        fix = f"{_COMPARE} Else: --ignore-columns {written_names(pair)}" if known else _COMPARE
        message = f"{pair[0]!r} and {pair[1]!r} look like two answers to compare."
        raise UnknownFormat(message, where=where, fix=fix)


def how_to_use(name: str, value: Value, convert: Convert) -> str:
    """What to do about a column that is not used: use it, if a way works on this row, or ignore it."""
    ignore = f"to leave it out: --ignore-columns {written_names([name])}"
    if "[]." in name:
        return "Put it into the content of its turn, or remove it."
    for columns in _ways(name, value):
        if _works(columns, value, convert) and columns.keys() - {"prompt", "completion"} <= {"input", REASONING}:
            return f"To use it: --columns {written(columns)}; {ignore}"
    return f"{ignore[0].upper()}{ignore[1:]}"


def _ways(name: str, value: Value) -> list[dict[str, str]]:
    if "text" in value and not {"messages", "conversations", "prompt", "instruction"} & value.keys():
        return [{"prompt": "text", "completion": name}]
    if name.lower() in THOUGHTS:
        return [{REASONING: name}]
    return [{"input": name}]


def _works(columns: dict[str, str], value: Value, convert: Convert) -> bool:
    """Whether the row converts under these columns, with every one of them used."""
    taken = {*columns, *columns.values()}
    renamed: dict[str, Any] = {ours: value[theirs] for ours, theirs in columns.items()}
    renamed |= {str(key): item for key, item in value.items() if str(key) not in taken}
    try:
        record = convert(renamed)
    except BackpropagateError:
        return False
    return not {*columns} & {*record.unused}


def _found(wanted: tuple[str, ...], keys: list[str], taken: set[str]) -> dict[str, str]:
    """The nearest column to each of our names, none twice."""
    found: dict[str, str] = {}
    for name in wanted:
        free = [key for key in keys if key not in taken and key not in found.values()]
        column = _nearest(name, free)
        if column is not None:
            found[name] = column
    return found


def _nearest(name: str, keys: list[str]) -> str | None:
    lower = {key.strip().lower().replace(" ", "_"): key for key in reversed(keys)}
    if name in lower:
        return lower[name]
    alias = next((lower[other] for other in _ALIASES.get(name, ()) if other in lower), None)
    near = difflib.get_close_matches(name, list(lower), 1, _NEAR)
    return alias or (lower[near[0]] if near else None)
