"""The order of turns."""

import pytest

from bp_data import Record
from bp_data.check.turns import RowText, turn_faults

NAMES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def faults(roles: str) -> dict[str, str]:
    turns = [{"role": NAMES[role], "content": "x"} for role in roles]
    return dict(turn_faults(Record("openai", turns, "a:1")))


@pytest.mark.parametrize("roles", ["ua", "sua", "uaua", "uatta"])
def test_usual_orders(roles: str) -> None:
    assert faults(roles) == {}


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ("uua", "turns 1 and 2 are both user"),
        ("uaa", "turns 2 and 3 are both assistant"),
        ("uasua", "turn 3 is system, which belongs first"),
        ("uau", "the last turn is the user's and has no answer"),
        ("aua", "the assistant speaks first"),
        ("uuau", "turns 1 and 2 are both user; the last turn is the user's and has no answer"),
    ],
)
def test_unusual_orders(roles: str, message: str) -> None:
    assert faults(roles) == {"role-order": message}


def test_a_turn_is_named_by_where_in_the_row_something_stands() -> None:
    turns = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]
    said = RowText.of(Record("openai", turns, "a:1"))
    assert [said.turn(offset) for offset in range(4)] == ["turn 1: ", "turn 1: ", "turn 1: ", "turn 2: "]
    assert RowText.of(Record("text", "ab", "a:1")).turn(1) == ""
