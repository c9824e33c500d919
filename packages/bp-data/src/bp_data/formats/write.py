"""Converting rows to the formats of other tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from bp_core.errors import BadRow, BadValue

from ..reading.files import Row
from .detect import convert
from .records import AnyRecord, Record

Turns = Sequence[Mapping[str, Any]]
_FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def reshape(rows: Iterable[Row], to: str) -> Iterator[dict[str, object]]:
    """Each row in the format `to`: openai, sharegpt or alpaca. Raises BadValue, the errors of converting, BadRow."""
    if to not in SHAPES:
        raise BadValue(f"there is no format {to!r} to convert to.", fix=f"Use one of: {', '.join(SHAPES)}.")
    return (_reshaped(convert(row), to) for row in rows)


def _reshaped(record: AnyRecord, to: str) -> dict[str, object]:
    if not isinstance(record, Record):
        fix = "Leave the row out, or take one of its answers with --columns."
        raise BadRow(f"this is a row of answers to compare ({record.format}).", where=record.where, fix=fix)
    if isinstance(record.content, str):
        fix = "Leave the row out: training takes raw text as it is."
        raise BadRow(f"this is raw text, and {to} holds conversations.", where=record.where, fix=fix)
    turns = [{**turn, "train": False} if i in record.untrained else turn for i, turn in enumerate(record.content)]
    if record.tools and to != "openai":
        _refuse(f"{to} cannot hold the row's tools", record.where)
    tools = {"tools": list(record.tools)} if record.tools else {}
    return {**SHAPES[to](turns, record.where), **tools}


def _openai(turns: Turns, where: str) -> dict[str, object]:
    return {"messages": [_wired(turn) for turn in turns]}


def _wired(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn in OpenAI's form, in which the arguments of calls are JSON text."""
    if "tool_calls" not in turn:
        return dict(turn)
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in turn["tool_calls"]
    ]
    return {**turn, "tool_calls": calls}


def _sharegpt(turns: Turns, where: str) -> dict[str, object]:
    _refuse_more_than_text(turns, "sharegpt", where)
    return {"conversations": [{"from": _FROM[turn["role"]], "value": turn["content"]} for turn in turns]}


def _alpaca(turns: Turns, where: str) -> dict[str, object]:
    _refuse_more_than_text(turns, "alpaca", where)
    system = turns[0]["content"] if turns[0]["role"] == "system" else None
    if system == "":
        _refuse("alpaca cannot hold an empty system turn", where)
    *history, (question, answer) = _exchanges(turns, 0 if system is None else 1, where)
    row: dict[str, object] = {"instruction": question, "input": "", "output": answer}
    if system is not None:
        row["system"] = system
    if history:
        row["history"] = [list(pair) for pair in history]
    return row


def _exchanges(turns: Turns, first: int, where: str) -> list[tuple[str, str]]:
    """(question, answer) pairs from turn `first` on."""
    for index, turn in enumerate(turns[first:]):
        wanted = ("user", "assistant")[index % 2]
        if turn["role"] != wanted:
            _refuse(f"alpaca wants {wanted} at turn {first + index + 1}, which is {turn['role']}", where)
    texts = [turn["content"] for turn in turns[first:]]
    if len(texts) % 2:
        _refuse("alpaca wants an answer at the end, and the last turn is a question", where)
    return list(zip(texts[::2], texts[1::2], strict=True))


def _refuse_more_than_text(turns: Turns, to: str, where: str) -> None:
    for number, turn in enumerate(turns, 1):
        more = [key for key, value in turn.items() if key not in ("role", "content") and value is not None]
        if more or not isinstance(turn["content"], str) or turn["role"] not in _FROM:
            _refuse(f"{to} cannot hold turn {number}, which has {more[0] if more else 'more than text'!r}", where)


def _refuse(message: str, where: str) -> NoReturn:
    raise BadRow(f"{message}.", where=where, fix="Convert to openai, or remove that row.")


SHAPES: dict[str, Callable[[Turns, str], dict[str, object]]] = {
    "openai": _openai,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
}
