"""An embedding whose gradient is added row by row, where PyTorch makes one of the whole table.

A micro-batch uses a few thousand rows of a table of some hundred thousand. A tied head has a gradient of the whole
table already: PyTorch then holds the head's, the embedding's and their sum at once, 2 GiB for a model of 3 billion
parameters in bfloat16. Here the head's is the only one, and the rows are added to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import embedding
from transformers import PreTrainedModel


def install(model: PreTrainedModel) -> None:
    """Let the input embedding compute so, if it is torch's own and has nothing special about its gradient."""
    module = model.get_input_embeddings()
    if type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq:
        module.__class__ = RowEmbedding


class RowEmbedding(nn.Embedding):
    """torch's embedding, but for how its gradient is made."""

    def forward(self, input: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(input)
        # The weight is no input of the function: else the head's gradient would wait for this one to be added to it.
        anchor = torch.zeros(0, dtype=self.weight.dtype, device=self.weight.device, requires_grad=True)
        rows: Tensor = _Rows.apply(anchor, input, self)
        return rows


class _Rows(Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, ids: Tensor, module: RowEmbedding) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(ids)
        return embedding(ids, module.weight.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        weight, padding = ctx.module.weight, ctx.module.padding_idx
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        rows, sums = summed_by_row(ids.flatten(), gradients[0].flatten(0, -2))
        if padding is not None:
            sums.masked_fill_((rows == padding)[:, None], 0)
        weight.grad.index_add_(0, rows, sums.to(weight.dtype))
        return None, None, None


def summed_by_row(ids: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """ids [tokens] and gradients [tokens, width] → rows [tokens] and their sums, float32 [tokens, width].

    Each row occurs once; what is left over at the end is row 0 with sum 0. How many rows there are is not asked for,
    because the host would have to wait for the answer.
    """
    ordered, order = ids.sort(stable=True)
    begins = torch.ones_like(ordered)
    begins[1:] = ordered[1:] != ordered[:-1]
    place = begins.cumsum(0) - 1
    sums = torch.zeros(gradients.shape, dtype=torch.float32, device=gradients.device)
    sums.index_add_(0, place, gradients[order].float())
    return torch.zeros_like(ids).scatter_(0, place, ordered), sums
