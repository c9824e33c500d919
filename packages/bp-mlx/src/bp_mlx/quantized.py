"""A frozen base in 4 or 8 bits: stored so in its files, or quantised while it is loaded."""

from __future__ import annotations

import mlx.nn as nn
from mlx.utils import tree_flatten

from bp_core.choices import Mode

BITS: dict[Mode, int] = {"qlora": 4, "lora-8bit": 8}
_GROUPS = (64, 32)  # numbers of weights that share a float16 scale and offset


def quantize(layers: list[nn.Module], mode: Mode) -> None:
    """Quantise linear layers to the mode's 4 or 8 bits; layers whose width no group size divides stay as they are."""
    if mode not in BITS:
        return
    for layer in layers:
        for size in _GROUPS:
            nn.quantize(layer, size, BITS[mode], class_predicate=lambda _, m, size=size: _divided(m, size))


def format_of(model: nn.Module) -> str | None:
    """The base's quantised number format; None if it is not quantised."""
    kept = {f"{m.bits}-bit {m.mode}" for _, m in model.named_modules() if isinstance(m, nn.QuantizedLinear)}
    return ", ".join(sorted(kept)) or None


def count(model: nn.Module) -> int:
    """The number of weights, quantised ones counted unpacked."""
    packed = {name: m for name, m in model.named_modules() if hasattr(m, "bits")}
    total = sum(m.weight.size * 32 // m.bits + ("bias" in m and m.bias.size) for m in packed.values())
    plain = [value.size for name, value in tree_flatten(model.parameters()) if name.rpartition(".")[0] not in packed]
    return total + sum(plain)


def _divided(module: nn.Module, size: int) -> bool:
    return isinstance(module, nn.Linear) and module.weight.shape[1] % size == 0
