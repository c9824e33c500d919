"""A frozen base in 4 or 8 bits: as its files have it, or quantised as it is loaded."""

from __future__ import annotations

import mlx.nn as nn
from mlx.utils import tree_flatten

from bp_core.choices import Mode

BITS: dict[Mode, int] = {"qlora": 4, "lora-8bit": 8}
_GROUPS = (64, 32)  # weights that share a scale and an offset, float16 each


def quantize(layers: list[nn.Module], mode: Mode) -> None:
    """Keep the linear layers of this mode in MLX's affine 4 or 8 bits; those that no group divides stay as they are."""
    if mode not in BITS:
        return
    for layer in layers:
        for size in _GROUPS:
            nn.quantize(layer, size, BITS[mode], class_predicate=lambda _, m, size=size: _divided(m, size))


def format_of(model: nn.Module) -> str | None:
    """What the base is kept in, if it is quantised."""
    kept = {f"{m.bits}-bit {m.mode}" for _, m in model.named_modules() if isinstance(m, nn.QuantizedLinear)}
    return ", ".join(sorted(kept)) or None


def count(model: nn.Module) -> int:
    """How many numbers the weights are, quantised ones unpacked."""
    packed = {name: m for name, m in model.named_modules() if hasattr(m, "bits")}
    total = sum(m.weight.size * 32 // m.bits + ("bias" in m and m.bias.size) for m in packed.values())
    plain = [value.size for name, value in tree_flatten(model.parameters()) if name.rpartition(".")[0] not in packed]
    return total + sum(plain)


def _divided(module: nn.Module, size: int) -> bool:
    return isinstance(module, nn.Linear) and module.weight.shape[1] % size == 0
