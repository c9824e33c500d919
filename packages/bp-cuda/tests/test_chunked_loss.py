import pytest
import torch
from torch.nn.functional import cross_entropy

from bp_core.step_sizes import chunk_sizes
from bp_cuda.chunked_loss import token_losses

VOCABULARY = 40_000


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_losses_and_gradients_are_those_of_all_logits_at_once(softcap):
    torch.manual_seed(0)
    hidden, weight = torch.randn(500, 12), torch.randn(VOCABULARY, 12)
    targets, counts = torch.randint(VOCABULARY, (500,)), torch.rand(500)
    rows, part = chunk_sizes(VOCABULARY, 4, "cpu")
    assert part < rows < len(hidden)  # several chunks, in several parts
    found = []
    for own in (True, False):
        x = hidden.clone().requires_grad_()
        if own:
            losses = token_losses(x, weight, targets, softcap)
        else:
            logits = x @ weight.t()
            logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
            losses = cross_entropy(logits, targets, reduction="none")
        (losses * counts).sum().backward()
        found.append((losses.detach(), x.grad))
    (losses, gradient), (expected, theirs) = found
    assert torch.allclose(losses, expected, rtol=1e-6, atol=1e-6)
    assert (gradient - theirs).norm() < 1e-6 * theirs.norm()


def test_losses_are_in_float32_and_finite_where_a_probability_is_none():
    hidden = torch.tensor([[300.0], [-300.0]], dtype=torch.bfloat16)
    weight = torch.tensor([[1.0], [-1.0]], dtype=torch.bfloat16)
    losses = token_losses(hidden, weight, torch.tensor([0, 0]))
    assert losses.dtype == torch.float32 and losses.tolist() == [0.0, 600.0]


@pytest.mark.parametrize("tokens", [1, 3, 9, 16, 40])
def test_gradients_of_few_tokens_are_as_exact_as_those_of_many(tokens):
    torch.manual_seed(0)
    weight = torch.randn(49152, 64) * 0.04 + torch.randn(64) * 0.5  # all words have something in common
    hidden, targets = torch.randn(tokens, 64) * 0.2, torch.arange(tokens)
    ours, exact = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
    token_losses(ours, weight, targets).sum().backward()
    cross_entropy(exact @ weight.double().t(), targets, reduction="sum").backward()
    assert (ours.grad - exact.grad).norm() < 1e-5 * exact.grad.norm()
