import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_data.preparing.packing import Rows, pack

CAPACITY = 32
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=60)


def sums(rows: Rows, lengths: list[int]) -> list[int]:
    return [sum(lengths[i] for i in row) for row in rows]


def best_fit_decreasing(lengths: list[int]) -> list[int]:
    """The sums of the rows, by looking at every row for every example."""
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in range(len(rows)) if rows[row] + length <= CAPACITY]
        if fitting:
            rows[max(fitting, key=lambda row: rows[row])] += length
        else:
            rows.append(length)
    return sorted(rows)


@settings(deadline=None)
@given(LENGTHS)
def test_every_example_is_in_one_row_and_no_row_is_over_full(lengths: list[int]) -> None:
    rows = pack(lengths, CAPACITY)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    assert all(row == sorted(row) and row for row in rows)
    assert max(sums(rows, lengths), default=0) <= CAPACITY


@settings(deadline=None)
@given(LENGTHS)
def test_it_is_best_fit_decreasing(lengths: list[int]) -> None:
    found = sums(pack(lengths, CAPACITY), lengths)
    assert sorted(found) == best_fit_decreasing(lengths)
    assert all(one + two > CAPACITY for one, two in combinations(found, 2))


@settings(deadline=None)
@given(LENGTHS)
def test_the_same_lengths_are_packed_the_same(lengths: list[int]) -> None:
    assert pack(lengths, CAPACITY) == pack(np.array(lengths, dtype=np.int64), CAPACITY)


def test_rows_are_a_sequence() -> None:
    rows = pack([3, 1, 2, 4], 4)
    assert (len(rows), rows[0], rows[-1], rows[1:]) == (3, [3], [2], [[0, 1], [2]])
    assert rows != pack([3, 1, 2], 4) and rows != [[3], [0, 1], [2]]
    with pytest.raises(IndexError):
        rows[3]


def test_a_hundred_thousand_examples_take_no_time() -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 100_000)
    began = time.process_time()
    rows = pack(lengths, 2048)
    assert time.process_time() - began < 5  # a row by row search would take minutes
    assert lengths.sum() / (len(rows) * 2048) > 0.99
