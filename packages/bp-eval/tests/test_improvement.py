"""What training did to held-out rows, told in words that fit the number of rows."""

import pytest

from bp_eval.improvement import Improvement, RowLosses, improvement


def told(before, after) -> Improvement:
    tokens = tuple(10.0 for _ in before)
    record = {
        "rows_before": RowLosses(tuple(before), tokens).as_dict(),
        "rows_after": RowLosses(tuple(after), tokens).as_dict(),
    }
    found = improvement(record)
    assert found
    return found


def test_many_rows_have_an_interval():
    found = told([20.0 + n % 3 for n in range(40)], [10.0 + n % 3 for n in range(40)])
    assert found.change.estimate == pytest.approx(-1.0) and not found.is_worse
    assert found.verdict == "better by 1 [1, 1]"


def test_a_few_rows_have_none():
    assert told([20.0], [10.0]).verdict == "better by 1; 1 row is too few to be sure"
    assert told([20.0] * 3, [30.0] * 3).verdict == "worse by 1; 3 rows are too few to be sure"


def test_what_may_be_chance_is_no_difference():
    up = [20.0 + (-1) ** n for n in range(40)]
    assert told([20.0] * 40, up).verdict == "no clear difference"


def test_without_both_there_is_nothing_to_tell():
    assert improvement({}) is None and improvement({"rows_before": {"nats": [1.0], "tokens": [1.0]}}) is None
