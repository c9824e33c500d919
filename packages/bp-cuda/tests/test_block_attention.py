import pytest
import torch

from bp_core import step_sizes
from bp_cuda import attention
from bp_cuda.block_attention import Scores, attend

BORDERS = [0, 9, 10, 33]


def tensors(dtype=torch.float32):
    torch.manual_seed(0)
    shapes = ((6, 33, 16), (2, 33, 16), (2, 33, 16))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def reference(query, key, value, scores):
    """Plain products, one segment after the other, by autograd."""
    options = {"scaling": scores.scale, "sliding_window": scores.window, "softcap": scores.softcap, "eager": True}
    return attention._segments(query[None], key[None], value[None], BORDERS, options)[0]


@pytest.fixture(params=[(128, 512), (8, 512), (8, 0), (5, 20)], ids=str)
def sizes(request, monkeypatch):
    """All queries at once, or in blocks; of segments up to so many tokens the weights are kept."""
    block, short = request.param
    monkeypatch.setattr(step_sizes, "QUERY_BLOCK", block)
    monkeypatch.setattr(step_sizes, "SHORT_SEGMENT", short)


@pytest.mark.usefixtures("sizes")
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


@pytest.mark.usefixtures("sizes")
def test_a_segment_sees_no_other():
    query, key, value = (tensor.detach() for tensor in tensors())
    before = attend(query, key, value, BORDERS, Scores(0.25))
    key[:, :10] = value[:, :10] = 7.0
    after = attend(query, key, value, BORDERS, Scores(0.25))
    assert torch.equal(before[10:], after[10:]) and not torch.equal(before[:9], after[:9])


def test_so_many_weights_are_kept_as_are_counted():
    for length in (1, 127, 128, 129, 256, 500, 512, 513):
        torch.manual_seed(0)
        query, key, value = (torch.randn(heads, length, 16, requires_grad=True) for heads in (6, 2, 2))
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x) or x, lambda x: x):
            attend(query, key, value, [0, length], Scores(0.25))
        assert sum(x.numel() for x in kept[3:]) == 6 * step_sizes.kept_weights(length)


def test_long_segments_in_16_bits_are_as_near_to_float32_as_a_short_one():
    def off(length):
        torch.manual_seed(0)
        inputs = [torch.randn(heads, length, 16, dtype=torch.bfloat16, requires_grad=True) for heads in (6, 2, 2)]
        exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
        found = []
        for tensors in (inputs, exact):
            out = attend(*tensors, [0, length], Scores(0.25))
            out.float().square().sum().backward()
            found.append([tensor.grad.float() for tensor in tensors])
        return max(((ours - theirs).norm() / theirs.norm()).item() for ours, theirs in zip(*found, strict=True))

    assert off(2000) < 1.5 * off(100)
