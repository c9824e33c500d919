from array import array
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_core.contract import Contract
from bp_core.errors import BadValue
from bp_data.preparing.example_arrays import Collector
from bp_data.preparing.hold_out import hold_out
from bp_data.preparing.prepared import Prepared, Report

REPORT = Report(0, {}, {}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "")


def prepared(rows: list[list[int]]) -> Prepared:
    found = Collector()
    for row in rows:
        found.add(array("i", row), bytes([0] + [1] * (len(row) - 1)))
    return Prepared(found.examples(), None, Contract("", "none", (), ()), [], REPORT)


def tokens(examples: object) -> list[tuple[int, ...]]:
    return [tuple(example.tokens) for example in examples]  # type: ignore[attr-defined]


ROWS = st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=3), min_size=12, max_size=40)


@settings(deadline=None)
@given(ROWS, st.integers(0, 99))
def test_no_example_is_on_both_sides_none_is_lost_and_order_is_kept(rows: list[list[int]], seed: int) -> None:
    distinct = len({tuple(row) for row in rows})
    if distinct < 4:
        return
    kept, held = hold_out(prepared(rows), 0.3, seed)
    assert not set(tokens(kept.examples)) & set(tokens(held))
    assert len(set(tokens(held))) == round(distinct * 0.3)
    whole = [tuple(row) for row in rows]
    assert Counter(tokens(kept.examples)) + Counter(tokens(held)) == Counter(whole)
    for side in (tokens(kept.examples), tokens(held)):
        assert side == [row for row in whole if row in set(side)]
    assert all(example.trained[0] == 0 and example.trained_tokens == len(example.tokens) - 1 for example in held)


def test_which_are_held_out_depends_on_the_seed_and_not_on_the_place() -> None:
    rows = [[n, n + 1, n + 2] for n in range(60)]
    held = tokens(hold_out(prepared(rows), 0.1, 1)[1])
    assert sorted(held) == sorted(tokens(hold_out(prepared(rows[::-1]), 0.1, 1)[1]))
    assert sorted(held) != sorted(tokens(hold_out(prepared(rows), 0.1, 2)[1]))


def test_what_was_packed_must_be_packed_anew() -> None:
    whole = prepared([[n, n + 1] for n in range(20)]).packing(8)
    kept, _ = hold_out(whole, 0.5, 0)
    assert kept.packed is None and len(kept.packing(8).packed or ()) == 3
    assert replace(kept, packed=None).report == whole.report


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_side_that_were_empty_is_refused(share: float) -> None:
    with pytest.raises(BadValue):
        hold_out(prepared([[1, 2], [3, 4], [5, 6]]), share, 0)
