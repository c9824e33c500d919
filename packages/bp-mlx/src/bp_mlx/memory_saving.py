"""Ways to use less memory at the cost of time, for when one example at a time is still too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from bp_core.out_of_memory import PIECES, RECOMPUTE

from .lora import LoraLinear


def ways(layers: list[nn.Module], *, of_tokens: bool) -> list[str]:
    """The ways that this model supports, cheapest first. `of_tokens`: the loss is a sum over tokens."""
    able = {RECOMPUTE: bool(layers), PIECES: of_tokens}
    return [way for way, can in able.items() if can]


def recompute_layers(layers: list[nn.Module]) -> None:
    """Activation checkpointing: compute each layer's inner activations again in the backward pass."""
    for layer in layers:
        kind = type(layer)
        layer.__class__ = type(kind.__name__, (kind,), {"__call__": _recomputed(kind.__call__)})


def _recomputed(call: Callable[..., Any]) -> Callable[..., Any]:
    def again(layer: nn.Module, *args: Any, **options: Any) -> Any:
        adapted = [module for _, module in layer.named_modules() if isinstance(module, LoraLinear)]
        keys = [module.chance() for module in adapted]

        def inner(parameters: Any, *args: Any, **options: Any) -> Any:
            layer.update(parameters)
            for module, key in zip(adapted, keys, strict=True):
                module.draw(key)
            return call(layer, *args, **options)

        return mx.checkpoint(inner)(layer.trainable_parameters(), *args, **options)

    return again
