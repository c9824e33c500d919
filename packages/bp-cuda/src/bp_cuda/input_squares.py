"""How much each column of a linear layer's weight is used: the squares of its inputs, summed while the model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_PEFT = "base_model.model."
_BASE_LAYER = ".base_layer"  # where PEFT keeps the layer that an adapter is put on


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inside, every forward pass adds to the sums: float64 [columns] on the host, by the layer's name in the base."""
    sums: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and ".lora_" not in name:
            plain = name.removeprefix(_PEFT).removesuffix(_BASE_LAYER)
            hooks.append(module.register_forward_pre_hook(partial(_add, sums, plain)))
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def _add(sums: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Add the squares of one input, [..., columns]."""
    (values,) = inputs[:1]
    squares = values.detach().float().square().reshape(-1, values.shape[-1]).sum(0)
    added = squares.to("cpu", torch.float64)
    sums[name] = sums[name] + added if name in sums else added
