import mlx.core as mx
import numpy as np
import pytest

from bp_mlx import objectives, optimizer


@pytest.mark.parametrize("words", [300, 49152, 50001])
def test_the_cross_entropy_of_a_large_vocabulary_keeps_its_digits(words):
    random = np.random.default_rng(0)
    logits, targets = random.normal(0, 3, (4, words)).astype(np.float32), np.array([0, 7, words - 1, 250], np.int32)
    exact = logits.astype(np.float64)
    sums = np.log(np.exp(exact).sum(1))
    truth = sums - exact[np.arange(4), targets]
    np.testing.assert_allclose(objectives.cross_entropy(mx.array(logits), mx.array(targets)), truth, rtol=2e-6)
    gradient = mx.grad(lambda x: objectives.cross_entropy(x, mx.array(targets)).sum())(mx.array(logits))
    expected = np.exp(exact - sums[:, None])
    expected[np.arange(4), targets] -= 1
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_length_of_large_gradients_keeps_its_digits_and_is_clipped():
    random = np.random.default_rng(0)
    values = {name: random.normal(0, 1, (700, 900)).astype(np.float32) for name in "ab"}
    truth = np.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in values.values()))
    clipped, length = optimizer.clip({name: mx.array(value) for name, value in values.items()}, 1.0)
    assert length == pytest.approx(truth, rel=2e-6)
    assert float(sum((value.astype(mx.float32) ** 2).sum() for value in clipped.values())) == pytest.approx(1, rel=1e-3)
