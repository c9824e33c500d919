"""Faults in the order of turns and in empty turns; and the searchable text of a row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import pairwise

from ..formats.records import AnyRecord, Preference, Rated, Record, Turn
from ..reading.files import Row

_ALONE = {"system", "user", "assistant"}  # tool results may follow each other
_FIRST = "system"
_TURN, _REJECTED = "turn", "rejected turn"


def turn_faults(record: AnyRecord) -> Iterator[tuple[str, str]]:
    """(kind, message) for each fault in a conversation's turns."""
    turns = _turns(record)
    roles = [turn["role"] for name, turn in turns if name.startswith(_TURN)]
    if roles and (faults := list(_order(roles))):
        yield "role-order", "; ".join(faults)
    for name, turn in turns:
        if turn["role"] != "assistant" and not turn["content"].strip():
            yield "empty-turn", f"{name} ({turn['role']}) is empty"
    if isinstance(record, Preference) and _spoken(record.chosen) == _spoken(record.rejected):
        yield "alike-answers", "chosen and rejected differ in white space only"


def _spoken(turns: list[Turn]) -> list[Turn]:
    return [{**turn, "content": turn["content"].strip()} for turn in turns]


def _turns(record: AnyRecord) -> list[tuple[str, Turn]]:
    """The turns with their names; raw text has none."""
    if isinstance(record, Preference):
        return [*_named(_TURN, record.prompt + record.chosen), *_named(_REJECTED, record.rejected)]
    turns = record.turns if isinstance(record, Rated) else record.content
    return [] if isinstance(turns, str) else _named(_TURN, turns)


def _named(name: str, turns: list[Turn]) -> list[tuple[str, Turn]]:
    return [(f"{name} {number}", turn) for number, turn in enumerate(turns, 1)]


def _order(roles: list[str]) -> Iterator[str]:
    for number, (one, other) in enumerate(pairwise(roles), 1):
        if one == other and one in _ALONE:
            yield f"turns {number} and {number + 1} are both {one}"
        elif other == _FIRST:
            yield f"turn {number + 1} is {other}, which belongs first"
    spoken = [role for role in roles if role != _FIRST]
    if spoken and spoken[0] == "assistant":
        yield "the assistant speaks first"
    if roles[-1] == "user":
        yield "the last turn is the user's and has no answer"


def has_null_turn(row: Row) -> bool:
    """Whether a turn in the original row has null or an empty text."""
    turns = [item for value in row.value.values() if isinstance(value, list) for item in value]
    return any(_is_null(turn) for turn in [*turns, row.value])


def _is_null(turn: object) -> bool:
    keys = ("content", "value", "output", "completion", "response", "answer", "chosen", "rejected")
    return isinstance(turn, Mapping) and any(key in turn and turn[key] in (None, "") for key in keys)


class RowText:
    """The texts of a row joined, to search them at once, with the names of their turns."""

    def __init__(self, texts: list[tuple[str, str]]) -> None:
        self.texts = [text for _, text in texts]
        self.joined = "\n".join(self.texts)
        self._names = [name for name, _ in texts]

    @classmethod
    def of(cls, record: AnyRecord) -> RowText:
        """The texts of all turns, without the descriptions of tools."""
        if isinstance(record, Record) and isinstance(record.content, str):
            return cls([("", record.content)])
        return cls([(f"{name}: ", text) for name, turn in _turns(record) for text in _texts(turn)])

    @classmethod
    def somewhere_in(cls, row: Row) -> RowText:
        """Every string of a row that could not be converted."""
        return cls([("", text) for text in _strings(row.value)])

    def turn(self, offset: int) -> str:
        """The name of the turn at this character of `joined`."""
        starts, start = [], 0
        for text in self.texts:
            starts.append(start)
            start += len(text) + 1
        return self._names[bisect_right(starts, offset) - 1]


def _texts(turn: Turn) -> Iterator[str]:
    """The texts of a turn, without its role."""
    yield turn["content"]
    if len(turn) > 2:
        yield from (text for key, value in turn.items() if key not in ("role", "content") for text in _strings(value))


def _strings(value: object) -> Iterator[str]:
    """The strings in a nested value."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping | list):
            waiting.extend(reversed(list(item.values() if isinstance(item, Mapping) else item)))
