"""LoftQ: an adapter initialised with the error of the 4-bit base.

arXiv:2310.08659, algorithm 1, with one iteration, so that the base is the same as for other initialisations.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from bp_core.errors import ModelUnusable

from . import initialization
from .lean_peft import LoraLayer, dequantize_module_weight

Original = Callable[[str], Tensor]


def originals(folder: Path) -> Original:
    """A function that reads the weight [out, in] of the layer with a name from the base's files."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as opened:
            files |= dict.fromkeys(opened.keys(), path)

    def read(layer: str) -> Tensor:
        name = f"{layer}.weight"
        if name not in files:
            raise ModelUnusable(f"{name} is not in its files, and loftq needs it.", where=str(folder))
        with safe_open(files[name], "pt") as opened:
            weight: Tensor = opened.get_tensor(name)
        return weight

    return read


@torch.no_grad()
def pair(original: Original, name: str, layer: LoraLayer) -> initialization.Pair:
    """The largest part of this layer's quantisation error: A [rank, in], B [out, rank], float32."""
    kept = dequantize_module_weight(layer.get_base_layer()).float()
    error = original(name).to(kept.device).float() - kept
    return initialization.from_weight("pissa_niter_16", error, layer.r["default"], layer.scaling["default"])
