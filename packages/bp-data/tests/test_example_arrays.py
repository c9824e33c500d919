from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_core.examples import Example
from bp_data.preparing.example_arrays import Collector, Examples

ROW = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=12)


def collected(rows: list[list[tuple[int, bool]]]) -> Examples:
    collector = Collector()
    for row in rows:
        collector.add(array("i", [token for token, _ in row]), bytes(flag for _, flag in row))
    assert len(collector) == len(rows)
    return collector.examples()


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=12))
def test_what_went_in_comes_out(rows: list[list[tuple[int, bool]]]) -> None:
    examples = collected(rows)
    assert [list(zip(one.tokens, map(bool, one.trained), strict=True)) for one in examples] == rows
    assert examples.lengths.tolist() == [len(row) for row in rows]
    assert (
        examples.trained_tokens
        == sum(one.trained_tokens for one in examples)
        == sum(flag for row in rows for _, flag in row)
    )
    assert examples == collected(rows) and examples != collected([*rows, rows[0]])


def test_they_are_a_sequence_of_examples() -> None:
    examples = collected([[(5, False), (6, True)], [(7, False)], [(8, False), (9, True)]])
    assert examples[-1] == Example(memoryview(array("i", [8, 9])), memoryview(b"\0\1"))
    assert [len(one.tokens) for one in examples[1:]] == [1, 2]
    assert examples != collected([[(5, False), (6, False)], [(7, False)], [(8, False), (9, True)]])
    with pytest.raises(IndexError):
        examples[3]
