"""Frozen weights in 4 or 8 bits, multiplied as bitsandbytes does, which importing this module imports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import Tensor


class QuantizedBase:
    """bitsandbytes' layers with one input. Their products have their biases in them; for the input's gradient they are
    unpacked one after the other."""

    def __init__(self, layers: Sequence[Linear4bit | Linear8bitLt]) -> None:
        self.layers = list(layers)
        self.sizes = [layer.out_features for layer in layers]
        self.bias = None

    def product(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [layer(z) for layer in self.layers]
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def gradient(self, dy: Tensor) -> Tensor:
        parts = dy.split(self.sizes, dim=-1)
        total: Tensor = parts[0] @ _unpacked(self.layers[0], dy.dtype)
        for part, layer in zip(parts[1:], self.layers[1:], strict=True):
            total.addmm_(part, _unpacked(layer, dy.dtype))
        return total


def _unpacked(layer: Any, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] as bitsandbytes' own backward pass has it."""
    if isinstance(layer, Linear4bit):
        packed: Any = layer.weight
        weight: Tensor = dequantize_4bit(packed.data.view(-1, 1), packed.quant_state).to(dtype)
    else:
        weight = layer.state.CB.to(dtype, copy=True).mul_(layer.state.SCB.unsqueeze(1).mul(1.0 / 127.0))
    return weight
