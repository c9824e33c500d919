"""The order of turns, and turns without text; and what of a row is said at all."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import pairwise

from ..files import Row
from ..formats import Record

_ALONE = {"system", "developer", "user", "assistant"}  # tool results may follow each other
_FIRST = {"system", "developer"}


def turn_faults(record: Record) -> Iterator[tuple[str, str]]:
    """Kinds and messages of what is unusual in a conversation's turns."""
    if isinstance(record.content, str):
        return
    roles = [turn["role"] for turn in record.content]
    if said := list(_order(roles)):
        yield "role-order", "; ".join(said)
    for number, turn in enumerate(record.content, 1):
        if turn["role"] != "assistant" and not turn["content"].strip():
            yield "empty-turn", f"turn {number} ({turn['role']}) is empty"


def _order(roles: list[str]) -> Iterator[str]:
    for number, (one, other) in enumerate(pairwise(roles), 1):
        if one == other and one in _ALONE:
            yield f"turns {number} and {number + 1} are both {one}"
        elif other in _FIRST and one not in _FIRST:
            yield f"turn {number + 1} is {other}, which belongs first"
    spoken = [role for role in roles if role not in _FIRST]
    if spoken and spoken[0] == "assistant":
        yield "the assistant speaks first"
    if roles[-1] == "user":
        yield "the last turn is the user's and has no answer"


def has_null_turn(row: Row) -> bool:
    """Whether a turn of the row, as it is written, has null or nothing for its text."""
    turns = [item for value in row.value.values() if isinstance(value, list) for item in value]
    return any(_is_null(turn) for turn in [*turns, row.value])


def _is_null(turn: object) -> bool:
    keys = ("content", "value", "output", "completion", "response", "answer")
    return isinstance(turn, Mapping) and any(key in turn and turn[key] in (None, "") for key in keys)


class Said:
    """The texts of a row joined, for searching them at once, and the names of the turns they come from."""

    def __init__(self, texts: list[tuple[str, str]]) -> None:
        self.texts = [text for _, text in texts]
        self.joined = "\n".join(self.texts)
        self._names = [name for name, _ in texts]

    @classmethod
    def by(cls, record: Record) -> Said:
        if isinstance(record.content, str):
            return cls([("", record.content)])
        return cls([(f"turn {number}: ", turn["content"]) for number, turn in enumerate(record.content, 1)])

    @classmethod
    def somewhere_in(cls, row: Row) -> Said:
        """Every string of a row that is no record."""
        return cls([("", text) for text in _strings(row.value)])

    def turn(self, offset: int) -> str:
        """The name of the turn in which this character of `joined` stands."""
        starts, start = [], 0
        for text in self.texts:
            starts.append(start)
            start += len(text) + 1
        return self._names[bisect_right(starts, offset) - 1]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)
