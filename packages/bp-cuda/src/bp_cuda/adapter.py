"""LoRA adapters on a base model: created, read, switched off, written in PEFT's layout.

pissa and olora initialise the adapter with a part B₀A₀ of the weights and subtract it from the base. Here the base is
not changed: a second, frozen adapter −B₀A₀ is added instead, which gives the same sum. The written adapter is a plain
LoRA of twice the rank, [B, −B₀] [A; A₀], as PEFT converts it.

loftq initialises with B₀A₀ ≈ W − Q, the error of the 4-bit base Q. Q + BA is trained without the second adapter; the
written adapter includes it, because it is used on the 16-bit weights: W + BA − B₀A₀.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from bp_core.adapter_config import WEIGHTS
from bp_core.choices import STARTS_IN_BASE, Init
from bp_core.config import ALL_LINEAR
from bp_core.errors import AdapterUnusable
from bp_core.recipe import Recipe

from . import initialization, loftq
from .lean_peft import (
    LoraConfig,
    LoraLayer,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    without_bitsandbytes,
)

_TRAINED, _START = "default", "start"


def new(model: PreTrainedModel, recipe: Recipe, folder: Path | None = None) -> PeftModel:
    """Add a new LoRA adapter in float32. `folder` has the base's weights, for loftq."""
    torch.manual_seed(recipe.seed)
    config = LoraConfig(**lora_settings(recipe), use_dora=recipe.dora, task_type="CAUSAL_LM")
    with _peft_calls():
        adapted = get_peft_model(model, config)
        if recipe.init in STARTS_IN_BASE:
            adapted.add_adapter(_START, dataclasses.replace(config, lora_dropout=0.0))
            adapted.base_model.set_adapter([_TRAINED] if recipe.init == "loftq" else [_TRAINED, _START])
    if recipe.init == "loftq":
        assert folder, "loftq needs the weights as they were"
        _initialize(adapted, partial(loftq.pair, loftq.originals(folder)))
    elif recipe.init != "default":
        _initialize(adapted, lambda name, layer: _pair(layer, recipe.init))
    _freeze_start(adapted)
    return adapted


def lora_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's settings by PEFT's names, for PEFT and for Unsloth."""
    names = recipe.target_modules
    return {
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "use_rslora": recipe.rslora,
        "target_modules": names if names == ALL_LINEAR else [name.strip() for name in names.split(",")],
    }


def read(model: PreTrainedModel, folder: Path, *, trainable: bool) -> PeftModel:
    """Add the adapter of a PEFT folder, in float32. Raises AdapterUnusable."""
    try:
        with _peft_calls():
            return PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise AdapterUnusable(str(error).split("\n")[0], where=str(folder)) from error


def frozen(model: PeftModel) -> dict[str, Parameter]:
    """The frozen second adapter's parameters by name; a checkpoint needs them too."""
    return {name: value for name, value in model.named_parameters() if f".{_START}." in name}


@contextmanager
def switched_off(model: PeftModel) -> Iterator[None]:
    """Compute with the base alone."""
    try:
        with model.disable_adapter():
            yield
    finally:
        _freeze_start(model)  # PEFT makes every adapter trainable when it switches them on again


def write(model: PeftModel, folder: Path, base_name: str) -> None:
    """Write weights and settings. `base_name` is the base's name in the settings."""
    weights = _weights(model, _TRAINED)
    config = dataclasses.replace(model.peft_config[_TRAINED])
    if _START in model.peft_config:
        start = _weights(model, _START)
        for name, value in weights.items():  # [A; A₀], [2 rank, in], or [B, −B₀], [out, 2 rank]
            weights[name] = torch.cat([value, start[name]], dim=0 if ".lora_A." in name else 1)
        config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2
        config.r *= 2
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config.base_model_name_or_path = base_name
    config.target_modules = sorted(config.target_modules)
    config.inference_mode = True
    config.save_pretrained(folder)


@torch.no_grad()
def _initialize(model: PeftModel, pair: Callable[[str, LoraLayer], initialization.Pair]) -> None:
    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        a, b = pair(name, layer)
        layer.lora_A[_TRAINED].weight.copy_(a)
        layer.lora_B[_TRAINED].weight.copy_(b)
        if _START in layer.lora_A:
            layer.lora_A[_START].weight.copy_(a)
            layer.lora_B[_START].weight.copy_(-b)


def _pair(layer: LoraLayer, init: Init) -> initialization.Pair:
    rank = layer.r[_TRAINED]
    if init == "orthogonal":
        return initialization.orthogonal(layer.out_features, layer.in_features, rank)
    weight = layer.get_base_layer().weight
    return initialization.from_weight(init, weight.T if layer.fan_in_fan_out else weight, rank, layer.scaling[_TRAINED])


def _freeze_start(model: PeftModel) -> None:
    for parameter in frozen(model).values():
        parameter.requires_grad_(False)


def _weights(model: PeftModel, name: str) -> dict[str, Tensor]:
    return {key: value.cpu() for key, value in get_peft_model_state_dict(model, adapter_name=name).items()}


@contextmanager
def _peft_calls() -> Iterator[None]:
    """peft 0.21 asks transformers 5.23 for a name that it deprecated; users cannot act on that warning.

    bitsandbytes is loaded by now if the base is quantised; for another, PEFT would load it to see that it is not.
    """
    with warnings.catch_warnings(), without_bitsandbytes():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
        yield
