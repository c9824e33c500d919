"""AdamW on bfloat16 weights: computed in float32, with stochastic rounding (arXiv:2010.06192).

A bfloat16 has 8 significant bits: an update below 1/512 of a weight, as most are, would always be rounded away. Rounded
up or down at random, in proportion to the distance, updates are right on average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

_LOW = 1 << 16  # the lower 16 bits of a float32, which bfloat16 lacks
# Numbers updated at once, in 192 MiB of workspace; a multiple of 256, of which each has one scale in 8-bit moments.
_PIECE = 1 << 24


class Workspace:
    """Buffers to update bfloat16 weights in float32, one piece of a weight at a time."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        size, device = min(_PIECE, max(p.numel() for p in parameters)), parameters[0].device
        self._value, self._gradient = (torch.empty(size, device=device) for _ in range(2))
        self._noise = torch.empty(size, dtype=torch.int32, device=device)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Room for the 8-bit moments of a piece, uint8 [n] each."""
        first, second = (torch.empty_like(self._value, dtype=torch.uint8) for _ in range(2))
        return first, second

    def pieces(self, parameter: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slice, value and gradient of each piece, float32 [n]. A change is written back when the next is taken."""
        assert parameter.grad is not None
        values, gradients = parameter.view(-1), parameter.grad.reshape(-1)
        for begin in range(0, len(values), len(self._value)):
            where = slice(begin, min(begin + len(self._value), len(values)))
            size = where.stop - begin
            value = self._value[:size].copy_(values[where])
            yield where, value, self._gradient[:size].copy_(gradients[where])
            values[where].copy_(round_stochastically(value, self._noise[:size]))


class RoundingAdamW(torch.optim.AdamW):
    """torch's AdamW with float32 moments and stochastic rounding."""

    _space: Workspace | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            self._space = self._space or Workspace(group["params"])
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._one(parameter, group, self._space)

    def _one(self, parameter: Tensor, group: dict[str, Any], space: Workspace) -> None:
        state = self.state[parameter]
        for where, value, gradient in space.pieces(parameter):
            adamw(
                [value], [gradient], [state["exp_avg"].view(-1)[where]], [state["exp_avg_sq"].view(-1)[where]], [],
                [state["step"].clone()], fused=True, amsgrad=False, maximize=False, beta1=group["betas"][0],
                beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
            )  # fmt: skip
        state["step"] += 1


def round_stochastically(value: Tensor, noise: Tensor) -> Tensor:
    """Round `value`, float32 [n], to bfloat16 precision, up or down at random, in place; noise: an int32 buffer [n]."""
    bits = value.view(torch.int32)
    bits.add_(noise.random_(0, _LOW)).bitwise_and_(-_LOW)
    return value
