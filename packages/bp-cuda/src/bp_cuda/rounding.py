"""AdamW on bfloat16 weights: computed in float32, rounded up or down by chance.

A bfloat16 has 8 bits: an update of less than 1/512 of a weight, which most are, would round to nothing every time.
Rounded at random, in proportion to the distance, it arrives on average (stochastic rounding, arXiv:2010.06192).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

_LOW = 1 << 16  # the bits of a float32 that a bfloat16 lacks


class RoundingAdamW(torch.optim.AdamW):
    """As torch's AdamW with float32 moments. Its workspace has the size of the largest weight."""

    _space: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._one(parameter, group)

    def _one(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        value, gradient, noise = (part[: parameter.numel()].view_as(parameter) for part in self._workspace())
        value.copy_(parameter)
        gradient.copy_(parameter.grad)
        state = self.state[parameter]
        adamw(
            [value], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
            fused=True, amsgrad=False, maximize=False, beta1=group["betas"][0], beta2=group["betas"][1],
            lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
        )  # fmt: skip
        parameter.copy_(round_by_chance(value, noise))

    def _workspace(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._space is None:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            largest, device = max(parameter.numel() for parameter in parameters), parameters[0].device
            value, gradient = (torch.empty(largest, device=device) for _ in range(2))
            self._space = value, gradient, torch.empty(largest, dtype=torch.int32, device=device)
        return self._space


def round_by_chance(value: Tensor, noise: Tensor) -> Tensor:
    """`value` (float32) with the 16 low bits gone, up or down by chance; in place. `noise` is int32 workspace."""
    bits = value.view(torch.int32)
    bits.add_(noise.random_(0, _LOW)).bitwise_and_(-_LOW)
    return value
