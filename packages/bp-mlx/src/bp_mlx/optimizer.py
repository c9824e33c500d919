"""AdamW that computes a whole step before it changes anything, saved without pickle."""

from __future__ import annotations

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from bp_core.errors import CheckpointUnusable

from .stochastic_rounding import round_stochastically

Arrays = dict[str, mx.array]
_BETAS, _EPS = (0.9, 0.999), 1e-8


class AdamW:
    """AdamW (Loshchilov and Hutter 2019) with float32 moments, equal to torch's."""

    def __init__(self, parameters: Arrays, weight_decay: float) -> None:
        self.weight_decay, self.steps = weight_decay, 0
        self.first = {name: mx.zeros(value.shape, mx.float32) for name, value in parameters.items()}
        self.second = {name: mx.zeros(value.shape, mx.float32) for name, value in parameters.items()}
        mx.eval(self.first, self.second)

    def step(self, parameters: Arrays, gradients: Arrays, rate: float) -> Arrays:
        """The updated parameters. If memory runs out, nothing has changed."""
        steps, decay = self.steps + 1, 1 - rate * self.weight_decay
        correction = [1 - beta**steps for beta in _BETAS]
        first = {n: _mixed(self.first[n], g, _BETAS[0]) for n, g in gradients.items()}
        second = {n: _mixed(self.second[n], g * g, _BETAS[1]) for n, g in gradients.items()}
        updated = {}
        for name, value in parameters.items():
            size = mx.sqrt(second[name]) / math.sqrt(correction[1]) + _EPS
            new = value.astype(mx.float32) * decay - rate / correction[0] * first[name] / size
            updated[name] = round_stochastically(new) if value.dtype == mx.bfloat16 else new
        mx.eval(first, second, updated)
        self.steps, self.first, self.second = steps, first, second
        return updated


def clip(gradients: Arrays, limit: float) -> tuple[Arrays, float]:
    """The gradients of any shapes, float32, clipped to a joint L2 norm of `limit`, and their norm before."""
    # By rows first: MLX's CPU build adds numbers one by one, which loses digits over a whole matrix.
    squares = [mx.sum(mx.square(value.astype(mx.float32)), axis=-1).sum() for value in gradients.values()]
    norm = math.sqrt(float(mx.sum(mx.stack(squares)).item()))
    share = min(1.0, limit / (norm + 1e-6))
    return {name: gradient.astype(mx.float32) * share for name, gradient in gradients.items()}, norm


def save(folder: Path, weights: Arrays, optimizer: AdamW) -> None:
    """Write weights, moments and the random state."""
    save_file({name: _stored(value) for name, value in weights.items()}, folder / "weights.safetensors")
    moments = {f"first|{name}": np.array(value) for name, value in optimizer.first.items()}
    moments |= {f"second|{name}": np.array(value) for name, value in optimizer.second.items()}
    save_file(moments | {"steps": np.array([optimizer.steps])}, folder / "optimizer.safetensors")
    save_file({"mlx": np.array(next(iter(mx.random.state)))}, folder / "random.safetensors")


def restore(folder: Path, weights: Arrays, optimizer: AdamW) -> Arrays:
    """Load what `save` wrote, and return the weights. Raises CheckpointUnusable when it belongs to another model."""
    try:
        saved = load_file(folder / "weights.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        high, low = (int(part) for part in load_file(folder / "random.safetensors")["mlx"])
        if saved.keys() != weights.keys() or any(saved[name].shape != weights[name].shape for name in saved):
            raise KeyError("it has other layers")
        first = {name: mx.array(moments[f"first|{name}"]) for name in weights}
        second = {name: mx.array(moments[f"second|{name}"]) for name in weights}
        steps = int(moments["steps"][0])
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointUnusable(f"it does not fit this model ({error}).", where=str(folder)) from error
    optimizer.steps, optimizer.first, optimizer.second = steps, first, second
    mx.random.seed(high << 32 | low)  # the state is the key that this seed makes
    restored = {}
    for name, value in weights.items():
        array = mx.array(saved[name])
        restored[name] = array.view(mx.bfloat16) if value.dtype == mx.bfloat16 else array
    return restored


def _mixed(old: mx.array, new: mx.array, beta: float) -> mx.array:
    return beta * old + (1 - beta) * new


def _stored(value: mx.array) -> np.ndarray:
    """As numpy, which has no bfloat16: those are stored as uint16 bits."""
    return np.array(value.view(mx.uint16) if value.dtype == mx.bfloat16 else value)
