"""What a group of linear layers does with its input before the product: a norm, a gated activation, nothing.

Each is computed again in the backward pass, so that only its input has to be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import gelu, silu

Backward = Callable[[Tensor], Tensor]
# Of each activation: itself, and its input's gradient from (gradient, input), written to `grad_input`.
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]] = {
    "SiLUActivation": (silu, torch.ops.aten.silu_backward.grad_input),
    "SiLU": (silu, torch.ops.aten.silu_backward.grad_input),
    "GELUTanh": (
        lambda x: gelu(x, approximate="tanh"),
        lambda *tensors, **out: torch.ops.aten.gelu_backward.grad_input(*tensors, approximate="tanh", **out),
    ),
}


class Preparation(Protocol):
    """x [tokens, …] → z [tokens, in], and the function from dz to dx."""

    needs_input: bool

    def __call__(self, x: Tensor) -> tuple[Tensor, Backward]: ...


class Unchanged:
    """x itself."""

    needs_input = False

    def __call__(self, x: Tensor) -> tuple[Tensor, Backward]:
        return x, lambda gradient: gradient


class Norm:
    """RMSNorm (arXiv:1910.07467, equation 4) by its frozen weight, computed in float32. Gemma's weights lack 1."""

    needs_input = True

    def __init__(self, module: Any) -> None:
        name = type(module).__name__
        self.module = module
        self.offset = 1.0 if name.startswith("Gemma") else 0.0
        self.epsilon: float = module.eps if name.startswith("Gemma") else module.variance_epsilon

    def __call__(self, x: Tensor) -> tuple[Tensor, Backward]:
        scale = self.module.weight.detach().float()
        if self.offset:
            scale = scale + self.offset
        normed = x.to(torch.float32, copy=True)
        length = torch.linalg.vector_norm(normed, dim=-1, keepdim=True)
        inverse = torch.rsqrt(length.square_().div_(x.shape[-1]).add_(self.epsilon))
        normed.mul_(inverse)

        def backward(gradient: Tensor) -> Tensor:
            along = gradient * scale  # float32
            mean = torch.linalg.vecdot(along, normed).unsqueeze(-1).div_(x.shape[-1])
            of_input: Tensor = along.addcmul_(normed, mean, value=-1).mul_(inverse).to(x.dtype)
            return of_input

        return (normed * scale).to(x.dtype), backward


class Gate:
    """act(gate) × up, of [tokens, 2 in] with the gate in the first half."""

    needs_input = True

    def __init__(self, activation: nn.Module | None) -> None:
        self.activate, self.activation_backward = _ACTIVATIONS[type(activation).__name__]

    @staticmethod
    def supports(activation: nn.Module | None) -> bool:
        return type(activation).__name__ in _ACTIVATIONS

    def __call__(self, x: Tensor) -> tuple[Tensor, Backward]:
        gate, up = x.chunk(2, dim=-1)
        activated = self.activate(gate)

        def backward(gradient: Tensor) -> Tensor:
            both = torch.empty_like(x)
            of_gate, of_up = both.chunk(2, dim=-1)
            torch.mul(gradient, activated, out=of_up)
            self.activation_backward(gradient * up, gate, grad_input=of_gate)
            return both

        return activated * up, backward


def prepared(x: Tensor, prepare: Preparation) -> Tensor:
    """The preparation by itself, keeping only x."""
    z: Tensor = _Prepared.apply(x, prepare)
    return z


class _Prepared(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, prepare: Preparation) -> Tensor:
        ctx.prepare = prepare
        ctx.save_for_backward(x)
        return prepare(x)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.prepare(x)[1](gradients[0]), None
