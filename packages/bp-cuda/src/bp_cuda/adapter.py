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
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from bp_core.adapter_config import WEIGHTS, AdapterConfig
from bp_core.adapter_keys import canonical, text_name
from bp_core.choices import STARTS_IN_BASE, Init
from bp_core.config import ALL_LINEAR
from bp_core.errors import AdapterUnusable
from bp_core.recipe import Recipe
from bp_core.tensor_file import TensorFileBroken, read_header

from . import initialization, loftq
from .lean_peft import (
    LoraConfig,
    LoraLayer,
    PeftModel,
    PeftModelForCausalLM,
    get_peft_model,
    get_peft_model_state_dict,
    without_bitsandbytes,
)

_TRAINED, _START = "default", "start"
_PAIR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?:embedding_)?A(?:\.weight)?")
_EMBEDDING = re.compile(r".*\.embed_tokens\.(?:token_adapter\.)?(?:base_layer\.|original_module\.)?weight")
# Before the layers of a language model, in names of the text model alone and of a vision-language model.
_TEXT_PART = r"^(?:model\.language_model\.|language_model\.model\.|model\.)(?=layers\.|embed_tokens\.|norm\.)"


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
    """Add the adapter of a PEFT folder, in float32. Raises AdapterUnusable, also where a tensor finds no place.

    An adapter of a vision-language model fits its text model, and the other way round.
    """
    try:
        stored = {canonical(key): tensor.shape for key, tensor in read_header(folder / WEIGHTS).tensors.items()}
        _resize(model, stored)
        with _peft_calls():
            config = _fitted(LoraConfig.from_pretrained(folder), model, stored)
            config.inference_mode = not trainable  # the file says how the adapter was saved
            kind = PeftModelForCausalLM if config.task_type == "CAUSAL_LM" else PeftModel
            adapted: PeftModel = kind(model, config)
            mapping = {_TEXT_PART: _text_part(model)}
            result = adapted.load_adapter(folder, _TRAINED, is_trainable=trainable, key_mapping=mapping)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, TensorFileBroken) as error:
        raise AdapterUnusable(str(error).split("\n")[0], where=str(folder)) from error
    if lost := [*result.missing_keys, *result.unexpected_keys]:
        message = f"{len(lost)} of its tensors do not fit this model, such as {lost[0]}."
        raise AdapterUnusable(message, where=str(folder))
    return adapted


def _resize(model: PreTrainedModel, stored: Mapping[str, Sequence[int]]) -> None:
    """Give the vocabulary as many rows as the embedding has that was saved with the adapter, if one was."""
    rows = {shape[0] for name, shape in stored.items() if _EMBEDDING.fullmatch(name)}
    if len(rows) == 1 and rows != {model.get_input_embeddings().weight.shape[0]}:
        model.resize_token_embeddings(rows.pop(), mean_resizing=False)


def _fitted(config: LoraConfig, model: PreTrainedModel, stored: Mapping[str, Sequence[int]]) -> LoraConfig:
    """The settings with the adapter's modules by their names in this model, where it calls them otherwise."""
    modules: list[str] = [match["module"] for name in stored if (match := _PAIR.fullmatch(name))]
    ours: dict[str, str] = {text_name(name): name for name, _ in model.named_modules()}
    if all(ours.get(text_name(module), module) == module for module in modules):
        return config
    known = AdapterConfig.of(config.to_dict())
    names = {module: ours.get(text_name(module), module) for module in modules}
    config.rank_pattern = {re.escape(name): known.rank_of(module) for module, name in names.items()}
    config.alpha_pattern = {re.escape(name): known.alpha_of(module) for module, name in names.items()}
    config.target_modules = set(names.values())
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    return config


def _text_part(model: PreTrainedModel) -> str:
    """What stands before the parts of the language model in this model's names."""
    embedding, last = model.get_input_embeddings(), "embed_tokens"
    names: list[str] = [name for name, module in model.named_modules() if module is embedding]
    for name in names:
        if name.endswith(last):
            return name.removesuffix(last)
    return "model."


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
    """The adapter's own tensors. PEFT would add the base's embedding and head where one of them was trained."""
    tensors = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return {key: value.cpu() for key, value in tensors.items()}


@contextmanager
def _peft_calls() -> Iterator[None]:
    """peft 0.21 asks transformers 5.23 for a name that it deprecated; users cannot act on that warning.

    bitsandbytes is loaded by now if the base is quantised; for another, PEFT would load it to see that it is not.
    """
    with warnings.catch_warnings(), without_bitsandbytes():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True` and a tied layer is part", UserWarning)
        warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # raised as an error of ours
        warnings.filterwarnings("ignore", "No valid `save_embedding_layers`", UserWarning)
        yield
