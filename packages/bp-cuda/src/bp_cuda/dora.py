"""DoRA (arXiv:2402.09353, equation 5) on a group of layers: each output is scaled by a trained length of its row.

The row W + s B A has the length ‖W + s B A‖, which counts as a constant in the backward pass (section 4.3). It is
computed from products with the narrow A and B, so W + s B A itself is never made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Rows:
    """The rows of a frozen weight [out, in], and their squared lengths."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.squares: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).square_()

    @torch.no_grad()
    def lengths(self, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        """‖W + s B A‖ of each row, float32 [out], for A [rank, in] and B [out, rank] in float32."""
        scaled = b * scaling
        across = (self.weight @ a.to(self.weight.dtype).t()).float()
        squares = self.squares + 2 * (scaled * across).sum(1) + (scaled @ (a @ a.t()) * scaled).sum(1)
        lengths: Tensor = squares.clamp_(min=0).sqrt_()
        return lengths


def scale(y: Tensor, factors: Tensor) -> Tensor:
    """Each column of y [tokens, out] times its factor, float32 [out]; keeps y."""
    scaled: Tensor = _Scaled.apply(y, factors)
    return scaled


class _Scaled(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(y, factors)
        return (y * factors).to(y.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        y, factors = ctx.saved_tensors
        (gradient,) = gradients
        return (gradient * factors).to(y.dtype), (gradient.float() * y).sum(0)
