"""LoRA adapters on a base model: created, read, switched off, written in PEFT's layout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from bp_core.adapter_config import CONFIG, PREFIX, WEIGHTS, AdapterConfig
from bp_core.config import ALL_LINEAR
from bp_core.errors import AdapterUnusable
from bp_core.recipe import Recipe

from . import initialization
from .lora import LoraLinear, shape

_PARTS = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "lora_magnitude_vector": "lora_magnitude_vector"}
_HEADS = ("lm_head", "embed_out", "output")


def new(model: nn.Module, recipe: Recipe) -> AdapterConfig:
    """Put a fresh adapter in float32 on the linear layers of the recipe."""
    mx.random.seed(recipe.seed)
    settings = AdapterConfig(recipe.rank, recipe.alpha, recipe.rslora, recipe.dora, recipe.dropout)
    pair = initialization.orthogonal if recipe.init == "orthogonal" else initialization.default
    for name, layer in _linear(model).items():
        if _wanted(name, recipe.target_modules):
            _put(model, name, LoraLinear(layer, *pair(*shape(layer), recipe.rank), settings))
    return settings


def read(model: nn.Module, folder: Path) -> AdapterConfig:
    """Put the adapter of a PEFT folder on the model, in float32. Raises AdapterUnusable."""
    settings = AdapterConfig.read(folder, ("use_dora",))
    try:
        weights = load_file(folder / WEIGHTS)
        known = {_tail(name): (name, layer) for name, layer in _linear(model).items()}
        for module in sorted({_module(key) for key in weights}):
            name, layer = known[_tail(module)]
            parts = {part: weights.get(f"{module}.{key}") for part, key in _PARTS.items()}
            _put(model, name, _read_layer(layer, settings, parts))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise AdapterUnusable(f"it does not fit this model ({error}).", where=str(folder)) from error
    return settings


def layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Compute with the base alone."""
    adapted = layers(model).values()
    try:
        for layer in adapted:
            layer.switch(on=False)
        yield
    finally:
        for layer in adapted:
            layer.switch(on=True)


def write(model: nn.Module, settings: AdapterConfig, folder: Path, base_name: str) -> None:
    """Write weights and settings. `base_name` is what they call the base."""
    adapted = layers(model)
    weights = {}
    for name, layer in adapted.items():
        module = name_in_transformers(name)
        for part, key in _PARTS.items():
            if part in layer:
                weights[f"{PREFIX}{module}.{key}"] = np.array(layer[part])
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "target_modules": sorted({name.rpartition(".")[2] for name in adapted}),
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _read_layer(layer: nn.Module, settings: AdapterConfig, parts: Mapping[str, np.ndarray | None]) -> LoraLinear:
    a, b, lengths = (parts[part] for part in _PARTS)
    rows, columns = shape(layer)
    if a is None or b is None or a.shape != (settings.rank, columns) or b.shape != (rows, settings.rank):
        raise ValueError(f"a layer of {rows} × {columns} has no pair of rank {settings.rank}")
    if settings.dora != (lengths is not None):
        raise ValueError("the lengths of DoRA are missing, or too many")
    adapted = LoraLinear(layer, mx.array(a.astype(np.float32)), mx.array(b.astype(np.float32)), settings)
    if lengths is not None:
        adapted.lora_magnitude_vector = mx.array(lengths.astype(np.float32))
    return adapted


def _linear(model: nn.Module) -> dict[str, nn.Module]:
    kinds = nn.Linear, nn.QuantizedLinear
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _wanted(name: str, targets: str) -> bool:
    """Whether PEFT would choose this layer: by the end of its name."""
    if targets == ALL_LINEAR:
        return name.rpartition(".")[2] not in _HEADS
    return any(f".{name}".endswith(f".{target.strip()}") for target in targets.split(","))


def _put(model: nn.Module, name: str, layer: LoraLinear) -> None:
    model.update_modules(tree_unflatten([(name, layer)]))


def _module(key: str) -> str:
    """The layer to which an adapter's tensor belongs."""
    for ending in _PARTS.values():
        if key.endswith(f".{ending}"):
            return key.removesuffix(f".{ending}")
    raise ValueError(f"{key} is no part of a LoRA adapter")


def _tail(name: str) -> str:
    """A layer's name from "layers." on; what comes before differs between frameworks."""
    place = name.find("layers.")
    return name[place:] if place >= 0 else name.removeprefix(PREFIX)


def name_in_transformers(name: str) -> str:
    """The name in transformers of a layer of mlx-lm's model."""
    return name.replace("language_model.model.", "model.", 1)
