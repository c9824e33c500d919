"""AdamW, with all memory allocated at the start, and saved without pickle."""

from __future__ import annotations

from collections.abc import Mapping
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

from bp_core.choices import ON_HOST, PAGED
from bp_core.errors import CheckpointUnusable
from bp_core.recipe import Recipe

from .fsdp import full_tensor, scatter
from .stochastic_rounding import RoundingAdamW

Parameters = dict[str, Parameter]


def build(parameters: Parameters, recipe: Recipe) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019); its moments are allocated here, so that no step allocates."""
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
    where = {"is_paged": recipe.optimizer == PAGED, "on_host": recipe.optimizer == ON_HOST}
    optimizer: Optimizer = kind(parameters.values(), weight_decay=recipe.weight_decay, **where)
    optimizer.allocate()  # type: ignore[attr-defined]
    return optimizer


@dataclass(frozen=True)
class Contents:
    """The tensors of a checkpoint: weights by name, and optimizer state by "<key>|<name>"."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]


def contents(weights: Parameters, optimizer: Optimizer, *, kept: bool = True) -> Contents:
    """The contents to save. Sharded tensors are gathered, and with `kept` copied to the host; all processes call it."""

    def gathered(tensor: Tensor) -> Tensor:
        whole = full_tensor(tensor)
        if not isinstance(tensor, DTensor):
            return whole
        return whole.cpu() if kept else whole.new_empty(0)

    values, moments = {}, {}
    for name, parameter in weights.items():
        values[name] = gathered(parameter)
        for key, value in _state(optimizer, parameter).items():
            moments[f"{key}|{name}"] = gathered(torch.as_tensor(value))
    return Contents(values, moments)


def save(folder: Path, whole: Contents) -> None:
    """Write the contents and the random state."""
    save_file(whole.weights, folder / "weights.safetensors")
    save_file(whole.moments, folder / "optimizer.safetensors")
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        random["cuda"] = torch.cuda.get_rng_state()
    save_file(random, folder / "random.safetensors")


def read(folder: Path, weights: Parameters, optimizer: Optimizer) -> Contents:
    """Read what `save` wrote, and set this process's random state to it.

    Raises CheckpointUnusable if it is not of these weights and this optimizer.
    """
    try:
        saved = Contents(load_file(folder / "weights.safetensors"), load_file(folder / "optimizer.safetensors"))
        random = load_file(folder / "random.safetensors")
        if _shapes(saved.weights) != _shapes(weights):
            raise KeyError("it has other layers")
        for name, parameter in weights.items():
            for key, value in _state(optimizer, parameter).items():
                moment, expected = saved.moments[f"{key}|{name}"], torch.as_tensor(value)
                if (moment.shape, moment.dtype) != (expected.shape, expected.dtype):
                    raise KeyError("it was made by another optimizer")
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointUnusable(f"it does not fit this model ({error}).", where=str(folder)) from error
    torch.set_rng_state(random["cpu"])
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"])
    return saved


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


@torch.no_grad()
def receive(saved: Contents | None, weights: Parameters, optimizer: Optimizer) -> None:
    """Load weights and moments in every process from rank 0's `saved` contents; the other processes pass None."""
    for name, parameter in weights.items():
        scatter(parameter, saved.weights[name] if saved else None)
        for key, value in _state(optimizer, parameter).items():
            moment = saved.moments[f"{key}|{name}"] if saved else None
            if isinstance(value, int):  # bitsandbytes' step counts
                count = torch.tensor(value)
                scatter(count, moment)
                optimizer.state[parameter][key] = int(count)
            else:
                scatter(value, moment)


def _state(optimizer: Optimizer, parameter: Parameter) -> dict[str, Any]:
    """The optimizer state that changes; without bitsandbytes' constant tables of 8-bit values."""
    state = optimizer.state.get(parameter, {})
    return {key: value for key, value in state.items() if not key.startswith("qmap")}
