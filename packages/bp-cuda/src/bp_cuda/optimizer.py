"""AdamW, with its memory taken at once, and written to disk without pickle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from bp_core.config import Recipe
from bp_core.errors import CheckpointUnusable

from .offload import plain
from .rounding import RoundingAdamW

Parameters = dict[str, Parameter]


def build(parameters: Parameters, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) whose moments exist before the first step, so that no step allocates."""
    rounded = any(parameter.dtype == torch.bfloat16 for parameter in parameters.values())
    kind = RoundingAdamW if rounded else torch.optim.AdamW
    optimizer = kind(parameters.values(), weight_decay=recipe.weight_decay, fused=True)
    for parameter in parameters.values():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, dtype=torch.float32),
            "exp_avg_sq": torch.zeros_like(parameter, dtype=torch.float32),
        }
    return optimizer


def save(folder: Path, weights: Parameters, optimizer: torch.optim.AdamW) -> None:
    """Write weights (trained ones, and those that were fixed by chance at the start), moments and the random state."""
    save_file({name: plain(parameter) for name, parameter in weights.items()}, folder / "weights.safetensors")
    moments = {
        f"{key}|{name}": plain(value)
        for name, parameter in weights.items()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }
    save_file(moments, folder / "optimizer.safetensors")
    save_file(_random_state(), folder / "random.safetensors")


@torch.no_grad()
def restore(folder: Path, weights: Parameters, optimizer: torch.optim.AdamW) -> None:
    """Read back what `save` wrote. Raises CheckpointUnusable when it belongs to another model."""
    try:
        found = load_file(folder / "weights.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        random = load_file(folder / "random.safetensors")
        if found.keys() != weights.keys():
            raise KeyError("it has other layers")
        for name, parameter in weights.items():
            plain(parameter).copy_(found[name])
            for key, value in optimizer.state.get(parameter, {}).items():
                plain(value).copy_(moments[f"{key}|{name}"])
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointUnusable(f"it does not fit this model ({error}).", where=str(folder)) from error
    torch.set_rng_state(random["cpu"])
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"])


def tensors(weights: Parameters, optimizer: torch.optim.AdamW) -> Iterator[Tensor]:
    """What `restore` reads, but for the random state."""
    for parameter in weights.values():
        yield parameter
        yield from optimizer.state.get(parameter, {}).values()


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else state
