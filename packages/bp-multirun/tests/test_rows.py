"""Orthonormal rows, with which a stage begins: invariants 1 to 8, and 25."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_factors import SHAPES, factors, full_rank, lower, orthogonal, sizes

from bp_core.errors import MergeRefused
from bp_multirun import Pair, rows
from bp_multirun.slao import gram_error, rows_of


def make(kind, rng, rank, width):
    a = rng.standard_normal((rank, width))
    if kind == "zero":
        return a * 0
    if kind == "deficient":
        return a[rng.integers(0, rank, rank)] * rng.integers(0, 3, (rank, 1))
    return a


KINDS = st.sampled_from(["any", "zero", "deficient"])


@given(sizes(), KINDS)
def test_rows_are_orthonormal(size, kind):
    """1."""
    rank, width, rng = size
    a = make(kind, rng, rank, width)
    np.testing.assert_allclose(rows(a) @ rows(a).T, np.eye(rank), atol=1e-10)
    narrow = rows(a.astype(np.float32))
    np.testing.assert_allclose(narrow @ narrow.T, np.eye(rank), atol=1e-5)


@given(sizes(), KINDS)
def test_a_triangle_with_a_positive_diagonal_leads_back(size, kind):
    """2."""
    rank, width, rng = size
    a = make(kind, rng, rank, width)
    triangle = rows(a) @ a.T
    np.testing.assert_allclose(triangle.T @ rows(a), a, atol=1e-10)
    np.testing.assert_allclose(np.tril(triangle, -1), 0, atol=1e-10)
    assert (np.diagonal(triangle) >= -1e-10).all()


@given(sizes())
def test_the_space_of_the_rows_stays(size):
    """3."""
    rank, width, rng = size
    a = full_rank(rng, rank, width)
    np.testing.assert_allclose(rows(a).T @ rows(a), np.linalg.pinv(a) @ a, atol=1e-10)


@given(sizes(), KINDS)
def test_twice_is_once(size, kind):
    """4."""
    rank, width, rng = size
    once = rows(make(kind, rng, rank, width))
    np.testing.assert_allclose(rows(once), once, atol=1e-10)


@given(sizes(), st.floats(1e-6, 1e6))
def test_lengths_and_earlier_rows_do_not_matter(size, factor):
    """5."""
    rank, width, rng = size
    a = full_rank(rng, rank, width)
    np.testing.assert_allclose(rows(factor * a), rows(a), atol=1e-10)
    np.testing.assert_allclose(rows(lower(rng, rank) @ a), rows(a), atol=1e-10)


@given(sizes())
def test_a_rotation_of_the_inputs_rotates_the_rows(size):
    """6."""
    rank, width, rng = size
    a, turn = full_rank(rng, rank, width), orthogonal(rng, width)
    np.testing.assert_allclose(rows(a @ turn), rows(a) @ turn, atol=1e-10)


@given(sizes(), st.sampled_from([np.float16, np.float32, np.float64]), st.booleans())
def test_shape_and_dtype_stay_and_nothing_else_changes(size, dtype, turned):
    """7."""
    rank, width, rng = size
    a = (
        rng.standard_normal((width, rank)).astype(dtype).T
        if turned
        else rng.standard_normal((rank, width)).astype(dtype)
    )
    before, drawn = a.copy(), str(np.random.get_state())
    found = rows(a)
    assert (found.shape, found.dtype, found.flags.writeable) == (a.shape, a.dtype, True)
    np.testing.assert_array_equal(a, before)
    np.testing.assert_array_equal(rows(a), found)
    assert str(np.random.get_state()) == drawn


@pytest.mark.parametrize(
    "a",
    [
        np.ones((3, 2)),
        np.ones(3),
        np.ones((1, 2, 3)),
        np.ones((2, 3), int),
        np.ones((2, 3), complex),
        np.ones((0, 3)),
        np.full((2, 3), np.nan),
        np.array([[1, np.inf]]),
    ],
)
def test_what_has_no_orthonormal_rows_is_refused(a):
    """8."""
    with pytest.raises(MergeRefused):
        rows(a)


@given(sizes(), st.integers(1, 64))
def test_the_function_jumps_unless_the_triangle_is_the_identity(size, out):
    """25."""
    rank, width, rng = size
    a, b = full_rank(rng, rank, width), rng.standard_normal((out, rank))
    triangle = rows(a) @ a.T
    np.testing.assert_allclose(b @ triangle.T @ rows(a), b @ a, atol=1e-10)
    np.testing.assert_allclose(b @ rows(rows(a)), b @ rows(a), atol=1e-9)
    away = triangle - np.eye(rank)
    np.testing.assert_allclose(np.linalg.norm(b @ a - b @ rows(a)), np.linalg.norm(b @ away.T), atol=1e-9)


def test_layers_of_one_shape_are_done_together_and_alike(monkeypatch):
    new = factors(np.random.default_rng(0), SHAPES | {"wide": (4, 9)}) | {
        "precise": Pair(np.random.default_rng(1).standard_normal((2, 5)), np.ones((3, 2)))
    }
    for together in (1 << 24, 1, 25):
        monkeypatch.setattr("bp_multirun.slao._TOGETHER", together)
        found = rows_of(new)
        assert list(found) == list(new) and found["precise"].dtype == np.float64
        for name, pair in new.items():
            np.testing.assert_array_equal(found[name], rows(pair.a))


def test_the_gram_error_is_zero_for_equally_long_orthogonal_rows():
    rng = np.random.default_rng(0)
    a = 0.577 * orthogonal(rng, 9)[:4]
    assert gram_error(a) < 1e-14 and gram_error(np.zeros((2, 3))) == 1
    assert gram_error(np.array([[1.0, 0], [1, 0]])) == 1
    assert gram_error(np.array([[1.0, 0], [0, 3]])) == pytest.approx(0.8)  # squares 1 and 9, mean 5
