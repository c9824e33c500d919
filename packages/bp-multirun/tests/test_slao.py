"""Coefficients, fold, start and deploy: invariants 9 to 20, 22 and 24."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_factors import RANK, SHAPES, content, factors, seeds, stages

from bp_core.errors import BadValue, MergeRefused
from bp_multirun import Pair, State, coefficient, deploy, fold, rows, shares, start
from bp_multirun.slao import cosine

SCHEDULES = ("inverse-sqrt", "inverse", "constant")
counts = st.integers(1, 9)
NAME = "layers.0.q_proj"


def folded(new, schedule="inverse-sqrt", constant=0.5):
    state = None
    for stage in new:
        state = fold(state, stage, schedule, constant)
    return state


def with_b(new, change):
    return [{name: Pair(pair.a, change(name, pair.b)) for name, pair in stage.items()} for stage in new]


def close(found, expected, atol=2e-6):
    np.testing.assert_allclose(found, expected, atol=atol * max(1, np.abs(expected).max()))


def test_coefficients():
    """9."""
    found = [coefficient(i, "inverse-sqrt") for i in range(1, 200)]
    assert found[0] == 1 and all(0 < after < before for before, after in pairwise(found))
    assert coefficient(10**4, "inverse-sqrt") == 0.01 and coefficient(10**4, "inverse") == 1e-4
    assert [coefficient(i, "constant", 0.3) for i in (1, 2, 9)] == [1, 0.3, 0.3]


@pytest.mark.parametrize("i", [0, -1, 1.0, 2.5, True, "1", None])
def test_a_stage_has_a_whole_number(i):
    """9."""
    with pytest.raises(BadValue):
        coefficient(i, "inverse")


@pytest.mark.parametrize("constant", [0, -0.1, 1.1, math.nan])
def test_a_constant_weight_is_a_share(constant):
    with pytest.raises(BadValue):
        coefficient(2, "constant", constant)


def test_an_unknown_schedule_is_named():
    with pytest.raises(BadValue, match=r"'linear'.*inverse-sqrt"):
        coefficient(1, "linear")


@given(counts, st.sampled_from(SCHEDULES), st.floats(0.01, 1))
def test_shares_sum_to_one_and_the_last_is_the_coefficient(count, schedule, constant):
    """10."""
    found = shares(count, schedule, constant)
    assert len(found) == count and math.isclose(sum(found), 1) and min(found) >= 0
    assert found[-1] == coefficient(count, schedule, constant)


@given(st.integers(2, 40))
def test_later_stages_count_for_more(count):
    """10."""
    found = shares(count, "inverse-sqrt")
    assert all(before < after for before, after in pairwise(found))


def test_shares_that_were_published():
    assert [round(share, 3) for share in shares(3, "inverse-sqrt")] == [0.124, 0.299, 0.577]
    assert [round(share, 3) for share in shares(5, "inverse-sqrt")] == [0.034, 0.083, 0.16, 0.276, 0.447]


@given(seeds, counts, st.sampled_from(SCHEDULES))
def test_the_merged_b_is_the_weighted_sum(seed, count, schedule):
    """10."""
    new = stages(seed, count)
    state = folded(new, schedule)
    for name, found in state.b_merged.items():
        parts = [share * stage[name].b for share, stage in zip(shares(count, schedule), new, strict=True)]
        close(found, np.sum(parts, axis=0, dtype=np.float64))


@given(seeds, counts)
def test_the_inverse_schedule_is_the_mean(seed, count):
    """11."""
    new = stages(seed, count)
    close(folded(new, "inverse").b_merged[NAME], np.mean([stage[NAME].b for stage in new], axis=0, dtype=np.float64))


@given(seeds, counts)
def test_a_constant_of_one_is_sequential_training(seed, count):
    """12."""
    new = stages(seed, count)
    np.testing.assert_array_equal(folded(new, "constant", 1).b_merged[NAME], new[-1][NAME].b)


@given(seeds, counts, st.sampled_from(SCHEDULES))
def test_equal_stages_change_nothing(seed, count, schedule):
    """13."""
    (new,) = stages(seed, 1)
    np.testing.assert_array_equal(folded([new] * count, schedule).b_merged[NAME], new[NAME].b)


@given(seeds, counts, st.sampled_from(SCHEDULES))
def test_the_merged_b_lies_between_the_stages(seed, count, schedule):
    """14."""
    new = stages(seed, count)
    all_b, found = np.stack([stage[NAME].b for stage in new]), folded(new, schedule).b_merged[NAME]
    assert (found >= all_b.min(0) - 1e-6).all() and (found <= all_b.max(0) + 1e-6).all()


@given(seeds, counts, st.floats(-10, 10, width=32), st.sampled_from(SCHEDULES))
def test_merging_is_affine(seed, count, factor, schedule):
    """15."""
    new, (shift,) = stages(seed, count), stages(seed + 1, 1)
    changed = with_b(new, lambda name, b: np.float32(factor) * b + shift[name].b)
    expected = np.float64(factor) * folded(new, schedule).b_merged[NAME] + shift[NAME].b
    close(folded(changed, schedule).b_merged[NAME], expected, atol=1e-5)


@given(seeds, st.integers(2, 9))
def test_swapping_the_last_two_stages(seed, count):
    """16."""
    new, weights = stages(seed, count), shares(count, "inverse-sqrt")
    swapped = [*new[:-2], new[-1], new[-2]]
    found = folded(swapped).b_merged[NAME].astype(np.float64) - folded(new).b_merged[NAME]
    close(found, (weights[-1] - weights[-2]) * (new[-2][NAME].b.astype(np.float64) - new[-1][NAME].b))


@given(seeds, counts, st.sampled_from(SCHEDULES))
def test_a_is_the_newest_to_the_bit(seed, count, schedule):
    """17."""
    new = stages(seed, count)
    state = folded(new, schedule)
    assert state.index == count
    for name, pair in deploy(state).items():
        np.testing.assert_array_equal(pair.a, new[-1][name].a)
        np.testing.assert_array_equal(state.b_finetuned[name], new[-1][name].b)
        assert pair.b is state.b_merged[name] and pair.b.dtype == np.float32
        if count == 1:
            np.testing.assert_array_equal(pair.b, new[0][name].b)


@given(seeds)
def test_a_stage_starts_from_the_trained_b(seed):
    """18."""
    new = stages(seed, 2)
    state = folded(new)
    found = start(state)[NAME]
    np.testing.assert_array_equal(found.b, new[1][NAME].b)
    np.testing.assert_array_equal(found.a, rows(new[1][NAME].a))
    assert not np.array_equal(found.b, state.b_merged[NAME])
    np.testing.assert_array_equal(start(state, init_b="merged")[NAME].b, state.b_merged[NAME])
    np.testing.assert_array_equal(start(state, init_a="keep")[NAME].a, new[1][NAME].a)


@pytest.mark.parametrize("init_a", ["qr", "keep"])
@pytest.mark.parametrize("init_b", ["finetuned", "merged"])
def test_a_start_may_be_changed(init_a, init_b):
    """19."""
    state = folded(stages(0, 2))
    before = content(state)
    for pair in start(state, init_a, init_b).values():
        pair.a[:] = pair.b[:] = 7
    assert content(state) == before


def test_what_is_given_may_be_changed_afterwards_and_the_state_may_not():
    new = stages(0, 2)
    state = folded(new)
    before = content(state)
    for stage in new:
        for pair in stage.values():
            pair.a[:] = pair.b[:] = 7
    assert content(state) == before
    for held in (state.a, state.b_finetuned, state.b_merged):
        with pytest.raises(ValueError, match="read-only"):
            held[NAME][0, 0] = 1


def test_arrays_that_cannot_change_are_not_copied():
    (new,) = stages(0, 1)
    for pair in new.values():
        pair.a.setflags(write=False)
        pair.b.setflags(write=False)
    state = fold(fold(None, new), new)
    assert np.shares_memory(state.a[NAME], new[NAME].a) and np.shares_memory(state.b_finetuned[NAME], new[NAME].b)


def changed(new, **parts):
    pair = new[NAME]
    return new | {NAME: Pair(parts.get("a", pair.a), parts.get("b", pair.b))}


RUINED = {
    "a missing layer": lambda new: {name: pair for name, pair in new.items() if name != NAME},
    "one layer more": lambda new: new | {"layers.9.q_proj": new[NAME]},
    "nothing": lambda new: {},
    "one row of b": lambda new: changed(new, b=new[NAME].b[:1]),
    "one column of a": lambda new: changed(new, a=new[NAME].a[:, :1]),
    "another rank": lambda new: changed(new, a=new[NAME].a[:1], b=new[NAME].b[:, :1]),
    "ranks that differ": lambda new: changed(new, b=new[NAME].b[:, :1]),
    "a vector": lambda new: changed(new, b=new[NAME].b[0]),
    "whole numbers": lambda new: changed(new, b=new[NAME].b.astype(int)),
    "nan in a": lambda new: changed(new, a=np.where(np.arange(5) == 4, np.nan, new[NAME].a)),
    "nan in b": lambda new: changed(new, b=np.where(np.arange(2) == 1, np.nan, new[NAME].b)),
    "infinity in b": lambda new: changed(new, b=np.full((6, 2), -np.inf, np.float32)),
}


@pytest.mark.parametrize("kind", RUINED)
@pytest.mark.parametrize("schedule", ["inverse-sqrt", "constant"])
def test_a_refused_fold_leaves_the_state(kind, schedule):
    """20."""
    first, second = stages(0, 2)
    state = fold(None, first)
    before = content(state)
    with pytest.raises(MergeRefused):
        fold(state, RUINED[kind](second), schedule, 1)
    assert content(state) == before


@pytest.mark.parametrize("kind", ["nothing", "ranks that differ", "a vector", "nan in a", "nan in b", "infinity in b"])
def test_a_first_stage_is_checked_too(kind):
    (new,) = stages(0, 1)
    with pytest.raises(MergeRefused):
        fold(None, RUINED[kind](new))


def test_a_merge_that_overflows_is_refused():
    """20."""
    (new,) = stages(0, 1)
    large = {sign: changed(new, b=np.full((6, 2), sign * 3e38, np.float32)) for sign in (1, -1)}
    with pytest.raises(MergeRefused, match=r"layers\.0\.q_proj"):
        fold(fold(None, large[1]), large[-1])


def test_the_names_that_differ_are_told():
    first, second = stages(0, 2)
    with pytest.raises(MergeRefused, match=r"missing: layers\.0\.q_proj; not expected: other"):
        fold(fold(None, first), RUINED["a missing layer"](second) | {"other": second[NAME]})


@given(seeds, counts, st.permutations(list(SHAPES)), st.integers(1, len(SHAPES)))
def test_layers_are_independent(seed, count, order, some):
    """22."""
    new = stages(seed, count)
    whole = folded(new)
    part = folded([{name: stage[name] for name in order[:some]} for stage in new])
    for name in order[:some]:
        np.testing.assert_array_equal(part.b_merged[name], whole.b_merged[name])
        np.testing.assert_array_equal(start(part)[name].a, start(whole)[name].a)


@given(seeds, counts)
def test_the_merged_change_has_the_rank_of_the_adapter(seed, count):
    """24."""
    pair = deploy(folded(stages(seed, count)))[NAME]
    assert np.linalg.matrix_rank(pair.b.astype(np.float64) @ pair.a, tol=1e-5) <= RANK


def test_layers_longer_than_a_block():
    shapes = {"long": (1000, 40)}
    rng = np.random.default_rng(0)
    new = [factors(rng, shapes, rank=37) for _ in range(3)]
    expected = sum(share * stage["long"].b for share, stage in zip(shares(3, "inverse-sqrt"), new, strict=True))
    close(folded(new).b_merged["long"], expected)
    new[2]["long"].b[-1, -1] = np.nan
    with pytest.raises(MergeRefused):
        folded(new)


@given(seeds)
def test_cosine(seed):
    first, second = stages(seed, 2)
    before = fold(None, first)
    b = {name: pair.b for name, pair in second.items()}
    x, y = (np.concatenate([held[name].ravel() for name in SHAPES]) for held in (b, before.b_merged))
    assert cosine(b, before.b_merged) == pytest.approx(np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-5)
    assert cosine(b, b) == pytest.approx(1)


def test_cosine_of_nothing():
    state = fold(None, {NAME: Pair(np.ones((1, 2), np.float32), np.zeros((3, 1), np.float32))})
    assert cosine(state.b_finetuned, state.b_merged) == 0


def test_factors_of_other_precision_are_kept_as_float32():
    (new,) = stages(0, 1)
    for dtype in (np.float16, np.float64):
        state = fold(None, {name: Pair(pair.a.astype(dtype), pair.b.astype(dtype)) for name, pair in new.items()})
        assert isinstance(state, State) and state.a[NAME].dtype == state.b_merged[NAME].dtype == np.float32
