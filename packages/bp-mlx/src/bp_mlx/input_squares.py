"""How much each column of a linear layer's weight is used: the squares of its inputs, summed while the model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from .lora import LoraLinear


class RecordingLayer(nn.Module):
    """A layer that adds the squares of its inputs, [..., columns], to `sums` under its name."""

    def __init__(self, layer: nn.Module, name: str, sums: dict[str, mx.array]) -> None:
        super().__init__()
        self.layer = layer
        self._name, self._sums = name, sums

    def __call__(self, values: mx.array) -> mx.array:
        squares = mx.square(values.astype(mx.float32)).reshape(-1, values.shape[-1]).sum(0)
        known = self._sums.get(self._name)
        self._sums[self._name] = squares if known is None else known + squares
        return self.layer(values)


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, mx.array]]:
    """Inside, every forward pass adds to the sums: float32 [columns], by the layer's name."""
    sums: dict[str, mx.array] = {}
    layers = dict(_layers(model))
    recording = [(name, RecordingLayer(layer, name, sums)) for name, layer in layers.items()]
    model.update_modules(tree_unflatten(recording))
    try:
        yield sums
    finally:
        model.update_modules(tree_unflatten(list(layers.items())))


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers, an adapted one as a whole."""
    kinds = nn.Linear, nn.QuantizedLinear, LoraLinear
    adapted = {name for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    for name, module in model.named_modules():
        inside = name.rpartition(".")[0] in adapted
        if isinstance(module, kinds) and not inside:
            yield name, module
