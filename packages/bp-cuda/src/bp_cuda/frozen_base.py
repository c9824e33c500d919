"""The frozen weights below a group of adapters: multiplied forward, and backward into the input's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

import torch
from torch import Tensor, nn

_QUANTIZED = frozenset({"Linear4bit", "Linear8bitLt"})


class FrozenBase(Protocol):
    """The weights of layers with one input; `sizes` are the outputs of each, out is their sum.

    `bias` [out] is to be added to the product; None if there is none, or the product has it.
    """

    sizes: list[int]
    bias: Tensor | None

    def product(self, z: Tensor) -> Tensor:
        """[tokens, in] → [tokens, out]; a new tensor."""
        ...

    def gradient(self, dy: Tensor) -> Tensor:
        """Of the input: [tokens, out] → [tokens, in]; a new tensor."""
        ...


class StackedBase:
    """Plain weights, stacked to one of [out, in]; those of the layers become views of it, so that nothing is kept
    twice."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.sizes = [layer.out_features for layer in layers]
        self.weight = _stacked([layer.weight for layer in layers])
        self.bias = _stacked_bias(layers)

    def product(self, z: Tensor) -> Tensor:
        return z @ self.weight.t()

    def gradient(self, dy: Tensor) -> Tensor:
        return dy @ self.weight


def supports(layer: nn.Module) -> bool:
    """Whether the weights of this layer can be multiplied here: plain or bitsandbytes', but not torchao's."""
    return type(layer) is nn.Linear or type(layer).__name__ in _QUANTIZED


def frozen_base(layers: Sequence[nn.Module]) -> FrozenBase:
    """The weights of such layers, all of one kind."""
    if type(layers[0]) is nn.Linear:
        return StackedBase(layers)  # type: ignore[arg-type]
    quantized: FrozenBase = import_module(".quantized_base", __package__).QuantizedBase(layers)
    return quantized


def _stacked_bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    """[out], for layers without one zeros; None if none has one."""
    if all(layer.bias is None for layer in layers):
        return None
    given = next(layer.bias for layer in layers if layer.bias is not None)
    return torch.cat(
        [given.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach() for layer in layers]
    )


@torch.no_grad()
def _stacked(weights: Sequence[Tensor]) -> Tensor:
    """[out, in] of all, which the parameters are views of from now on."""
    if len(weights) == 1:
        return weights[0].detach()
    stacked = torch.cat([weight.detach() for weight in weights])
    for weight, rows in zip(weights, stacked.split([len(weight) for weight in weights]), strict=True):
        weight.data = rows
    return stacked
