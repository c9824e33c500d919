"""AdamW, with its memory taken at once, and written to disk without pickle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer

from bp_core.errors import CheckpointUnusable
from bp_core.recipe import Recipe

from .fsdp import plain, share_out, together
from .stochastic_rounding import RoundingAdamW

Parameters = dict[str, Parameter]


def build(parameters: Parameters, recipe: Recipe) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019) whose moments exist before the first step, so that no step allocates."""
    if recipe.optimizer != "adamw":
        return _eight_bit(parameters, recipe)
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


def _eight_bit(parameters: Parameters, recipe: Recipe) -> Optimizer:
    kind = import_module(".eight_bit", __package__).EightBitAdamW
    paged = recipe.optimizer == "paged-adamw-8bit"
    optimizer: Optimizer = kind(parameters.values(), weight_decay=recipe.weight_decay, is_paged=paged)
    optimizer.allocate()  # type: ignore[attr-defined]
    return optimizer


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds: weights (trained, or fixed by chance at the start), and moments."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]


def contents(weights: Parameters, optimizer: Optimizer, *, kept: bool = True) -> Contents:
    """Of what is shared out, copies in the host's memory if they are `kept`; all processes must ask."""

    def brought(tensor: Tensor) -> Tensor:
        whole = together(tensor)
        return whole if not isinstance(tensor, DTensor) else whole.cpu() if kept else whole.new_empty(0)

    return Contents(
        {name: brought(parameter) for name, parameter in weights.items()},
        {
            f"{key}|{name}": brought(torch.as_tensor(value))
            for name, parameter in weights.items()
            for key, value in _state(optimizer, parameter).items()
        },
    )


def save(folder: Path, whole: Contents) -> None:
    """Write them, and the random state."""
    save_file(whole.weights, folder / "weights.safetensors")
    save_file(whole.moments, folder / "optimizer.safetensors")
    save_file(_random_state(), folder / "random.safetensors")


@torch.no_grad()
def restore(folder: Path, weights: Parameters, optimizer: Optimizer) -> None:
    """Read back what `save` wrote. Raises CheckpointUnusable when it belongs to another model."""
    found = read(folder, weights)
    try:
        for name, parameter in weights.items():
            plain(parameter).copy_(found.weights[name])
            for key, value in _state(optimizer, parameter).items():
                _bring_back(optimizer.state[parameter], key, value, found.moments[f"{key}|{name}"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointUnusable(f"it does not fit this model ({error}).", where=str(folder)) from error


def read(folder: Path, weights: Parameters) -> Contents:
    """What a checkpoint of such weights holds; its random state becomes this process's. Raises CheckpointUnusable."""
    try:
        found = Contents(load_file(folder / "weights.safetensors"), load_file(folder / "optimizer.safetensors"))
        random = load_file(folder / "random.safetensors")
        if {name: tensor.shape for name, tensor in found.weights.items()} != {n: p.shape for n, p in weights.items()}:
            raise KeyError("it has other layers")
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointUnusable(f"it does not fit this model ({error}).", where=str(folder)) from error
    torch.set_rng_state(random["cpu"])
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"])
    return found


@torch.no_grad()
def receive(found: Contents | None, weights: Parameters, optimizer: Optimizer) -> None:
    """Share out what rank 0 has `found`."""
    for name, parameter in weights.items():
        share_out(parameter, found.weights[name] if found else None)
        for key, value in _state(optimizer, parameter).items():
            if isinstance(value, DTensor):
                share_out(value, found.moments[f"{key}|{name}"] if found else None)
            elif found:
                value.copy_(found.moments[f"{key}|{name}"])


def tensors(weights: Parameters, optimizer: Optimizer) -> Iterator[Tensor]:
    """What `restore` reads, but for the random state and the counts."""
    for parameter in weights.values():
        yield parameter
        yield from (value for value in _state(optimizer, parameter).values() if isinstance(value, Tensor))


def counts(weights: Parameters, optimizer: Optimizer) -> dict[str, dict[str, int]]:
    """What `restore` reads that is no tensor: bitsandbytes counts its steps so."""
    states = {name: _state(optimizer, parameter) for name, parameter in weights.items()}
    return {name: {key: n for key, n in state.items() if isinstance(n, int)} for name, state in states.items()}


def set_counts(weights: Parameters, optimizer: Optimizer, counted: dict[str, dict[str, int]]) -> None:
    """Take over what `counts` said."""
    for name, found in counted.items():
        if found:
            optimizer.state[weights[name]].update(found)


def _state(optimizer: Optimizer, parameter: Parameter) -> dict[str, Any]:
    """What changes from step to step; bitsandbytes' tables of 8-bit values do not."""
    state = optimizer.state.get(parameter, {})
    return {key: value for key, value in state.items() if not key.startswith("qmap")}


def _bring_back(state: dict[str, Any], key: str, value: Tensor | int, saved: Tensor) -> None:
    if isinstance(value, int):
        state[key] = int(saved)
    elif value.dtype != saved.dtype:
        raise KeyError("it was made by another optimizer")
    else:
        plain(value).copy_(saved)


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else state
