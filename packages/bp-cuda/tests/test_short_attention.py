import pytest
import torch

from bp_cuda import attention
from bp_cuda.short_attention import Scores, attend

BORDERS = [0, 9, 10, 33]


def tensors(dtype=torch.float32):
    torch.manual_seed(0)
    shapes = ((6, 33, 16), (2, 33, 16), (2, 33, 16))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def reference(query, key, value, scores):
    """Plain products, one segment after the other, by autograd."""
    options = {"scaling": scores.scale, "sliding_window": scores.window, "softcap": scores.softcap, "eager": True}
    return attention._segments(query[None], key[None], value[None], BORDERS, options)[0]


@pytest.mark.parametrize(
    "scores", [Scores(0.25), Scores(0.3, window=4), Scores(0.25, softcap=0.7), Scores(0.25, 5, 1.5)], ids=str
)
def test_outputs_and_gradients_are_those_of_plain_products(scores):
    found = []
    for function in (lambda *x: attend(*x, BORDERS, scores), lambda *x: reference(*x, scores)):
        inputs = tensors()
        out = function(*inputs)
        out.square().sum().backward()
        found.append([out.detach(), *(tensor.grad for tensor in inputs)])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() < 2e-6 * theirs.norm()


def test_a_segment_sees_no_other():
    query, key, value = (tensor.detach() for tensor in tensors())
    before = attend(query, key, value, BORDERS, Scores(0.25))
    key[:, :10] = value[:, :10] = 7.0
    after = attend(query, key, value, BORDERS, Scores(0.25))
    assert torch.equal(before[10:], after[10:]) and not torch.equal(before[:9], after[:9])
