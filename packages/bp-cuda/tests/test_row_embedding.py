"""An embedding whose gradient is added row by row learns what torch's would, and makes no second table of gradients."""

import pytest
import torch
from tiny_models import batch, opened
from torch import nn

from bp_cuda.row_embedding import RowEmbedding, summed_by_row


def gradients(kind, head, ids, dtype, padding=None):
    """The gradients of an embedding's table and of its head, which may be the same table."""
    torch.manual_seed(0)
    table = kind(50, 8, dtype=dtype, padding_idx=padding)
    linear = nn.Linear(8, 50, bias=False, dtype=dtype)
    if head == "tied":
        linear.weight = table.weight
    for _ in range(2):  # the second is added to the first
        loss = linear(torch.tanh(table(ids))).float().square().sum()
        loss.backward()
    return table.weight.grad.float(), linear.weight.grad.float()


@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("head", ["tied", "apart"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_torch(dtype, head, padding):
    ids = torch.tensor([[3, 7, 7, 7, 0, 49, 3, 12]])
    ours, theirs = (gradients(kind, head, ids, dtype, padding) for kind in (RowEmbedding, nn.Embedding))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


def test_rows_are_summed_in_float32_each_once():
    ids, width = torch.tensor([5, 2, 5, 5, 2]), 3
    parts = torch.full((5, width), 0.01, dtype=torch.bfloat16)
    rows, sums = summed_by_row(ids, parts)
    assert rows.tolist() == [2, 5, 0, 0, 0]
    torch.testing.assert_close(sums[:, 0], parts[0, 0].float() * torch.tensor([2.0, 3.0, 0.0, 0.0, 0.0]))


def test_a_model_trained_whole_computes_so_and_an_adapters_base_does_not(tiny):
    assert isinstance(opened(tiny, mode="full").model.get_input_embeddings(), RowEmbedding)
    assert type(opened(tiny).model.get_base_model().get_input_embeddings()) is nn.Embedding


def test_reading_needs_no_gradients(tiny):
    rail = opened(tiny, mode="full")
    before = rail.evaluate(batch())
    rail.accumulate(batch(), 0.05)
    rail.discard()
    assert rail.evaluate(batch()) == before and all(p.grad is None for p in rail.parameters.values())
