"""Intervals: against exact distributions, and what must hold of any rows."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_core.errors import GateFailed
from bp_eval import bootstrap
from bp_eval.bootstrap import RESAMPLES, Ratio, difference, interval, mean_difference
from bp_eval.gates import gates_in, judge, require

ROWS = st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 500)), min_size=1, max_size=30)


def ratio(rows):
    return Ratio(*zip(*rows, strict=True))


def test_a_share_has_the_interval_of_the_binomial():
    """Drawing 20 rows of which half hit gives Binomial(20, 1/2) hits: 2.5 % lie below 6, 2.5 % above 14, of 20."""
    found = interval(Ratio([1.0, 0.0] * 10, [1.0] * 20))
    assert (found.low, found.estimate, found.high) == (0.3, 0.5, 0.7)


def test_a_mean_has_the_interval_of_all_draws():
    """Of five rows there are 3125 draws: all of them, with their true frequencies."""
    values = np.array([0.0, 1.0, 2.0, 5.0, 9.0])
    draws = np.array(np.meshgrid(*[values] * 5)).reshape(5, -1).mean(axis=0)
    found = interval(Ratio(values, [1.0] * 5))
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.21)  # means differ by 0.2


def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        rows = random.exponential(2.0, 60)
        found = interval(Ratio(rows, np.ones(60)))
        hits += found.low <= 2.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99  # percentile intervals of skewed rows are known to be a little narrow


def test_a_token_counts_the_same_in_a_short_row_and_in_a_long_one():
    assert interval(Ratio([2.0, 300.0], [1, 299])).estimate == pytest.approx(302 / 300)


@settings(max_examples=25, deadline=None)
@given(ROWS)
def test_an_interval_holds_its_estimate_and_a_model_does_not_differ_from_itself(rows):
    found = interval(ratio(rows))
    assert found.low <= found.estimate <= found.high
    same = difference(ratio(rows), ratio(rows))
    assert (same.estimate, same.low, same.high) == (0, 0, 0) and not same.excludes(0)


@settings(max_examples=25, deadline=None)
@given(ROWS, st.randoms())
def test_a_difference_changes_its_sign_with_the_order(rows, random):
    others = [(nats * random.random(), tokens) for nats, tokens in rows]
    forth, back = difference(ratio(rows), ratio(others)), difference(ratio(others), ratio(rows))
    assert (forth.estimate, forth.low, forth.high) == pytest.approx((-back.estimate, -back.high, -back.low))


def test_what_is_hard_for_both_does_not_blur_their_difference():
    nats = np.random.default_rng(1).uniform(0, 100, 40)
    mine, theirs = Ratio(nats, [10.0] * 40), Ratio(nats + 1, [10.0] * 40)
    found = difference(mine, theirs)
    assert (found.low, found.high) == pytest.approx((-0.1, -0.1)) and found.excludes(0)
    assert interval(mine).high > interval(theirs).low


def test_many_rows_are_drawn_piece_by_piece_with_the_same_result(monkeypatch):
    rows = Ratio(np.arange(50.0), [1.0] * 50)
    at_once = interval(rows)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 130)
    assert [len(picks) for picks in bootstrap._resamples(50, 0)] == [2] * (RESAMPLES // 2)
    assert interval(rows) == at_once


def test_what_is_not_finite_is_null_in_json():
    found = interval(Ratio([math.nan, 1.0], [1, 1]))
    assert set(found.as_dict().values()) == {None}
    (judged,) = judge(gates_in("loss<9"), {"loss": found}, {})
    assert not judged.holds


def test_a_gate_says_by_how_much_and_how_clearly():
    found = interval(Ratio([1.0, 0.0] * 10, [1.0] * 20))
    gates = judge(gates_in("f1>=0.2,f1>=0.4,f1>0.6,f1<0.25"), {"f1": found}, {})
    assert [(gate.holds, gate.clear) for gate in gates] == [(True, True), (True, False), (False, False), (False, True)]
    with pytest.raises(GateFailed) as caught:
        require(gates)
    assert "f1>0.6 does not hold: it is 0.5, off by 0.1; the 95 % interval [0.3, 0.7] crosses" in str(caught.value)
    assert "f1<0.25 does not hold" in str(caught.value) and "f1>=0.4" not in str(caught.value)
    assert caught.value.exit_code == 2 and caught.value.code == "RUNTIME_GATE_FAILED"
    require(gates[:2])


def test_the_mean_over_groups_counts_each_group_the_same_and_draws_it_by_itself():
    small = Ratio([2.0] * 4, [1.0] * 4), Ratio([1.0] * 4, [1.0] * 4)
    large = Ratio([5.0] * 40, [1.0] * 40), Ratio([2.0] * 40, [1.0] * 40)
    found = mean_difference([small, large])
    assert (found.estimate, found.low, found.high) == (2.0, 2.0, 2.0)
    first = Ratio([0.0, 1.0] * 50, [1.0] * 100), Ratio([0.0] * 100, [1.0] * 100)
    alone, twice = mean_difference([first]), mean_difference([first, first])
    assert alone == difference(*first)
    width = [interval.high - interval.low for interval in (alone, twice)]
    assert 0.6 < width[1] / width[0] < 0.8, "two independent groups: 1 / sqrt(2)"
