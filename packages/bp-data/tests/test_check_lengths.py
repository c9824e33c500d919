"""Histograms of lengths."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bp_data.check.lengths import Lengths


@given(st.lists(st.integers(0, 10**6)))
def test_every_row_is_in_one_bar_and_the_bars_join(lengths: list[int]) -> None:
    counted = Lengths()
    for length in lengths:
        counted.add(length)
    bars = counted.bars()
    assert [bar.rows for bar in bars] == [sum(bar.low <= length <= bar.high for length in lengths) for bar in bars]
    assert all(one.high + 1 == other.low for one, other in pairwise(bars))
    assert (sum(bar.rows for bar in bars), counted.total) == (len(lengths), sum(lengths))
