"""Models of real widths without a download: random weights from a config, made on the device, quantised there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from bp_cuda import model as models

_SPREAD = 0.02  # standard deviation of the weights, as models begin with


def write_config(config: Mapping[str, Any], folder: Path) -> Path:
    """A model's folder with nothing but its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **config})
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


@contextmanager
def random_weights() -> Iterator[None]:
    """Inside, the rail makes the weights of a base where it would read them."""
    with patch.object(models, "load_base", random_base):
        yield


def random_base(
    folder: Path, dtype: torch.dtype, device: torch.device, quantization: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """What `bp_cuda.model.load_base` gives, with random weights. No more than one weight is there unquantised."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if quantization:
            from transformers.integrations.bitsandbytes import replace_with_bnb_linear  # noqa: PLC0415 - optional

            replace_with_bnb_linear(model, ["lm_head"], quantization)
    if quantization:
        model.is_loaded_in_4bit, model.is_loaded_in_8bit = quantization.load_in_4bit, quantization.load_in_8bit
    torch.manual_seed(1)
    for module in model.modules():
        _fill(module, dtype, device)
    model.tie_weights()
    model.requires_grad_(False)
    return model.eval()


def _fill(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Give a module's own parameters values on the device; its buffers have theirs, and only move."""
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = buffer.to(device)
    for name, parameter in module._parameters.items():
        if parameter is None:
            continue
        if parameter.dim() == 1:
            values = torch.zeros(parameter.shape) if name == "bias" else torch.ones(parameter.shape)
            values = values.to(device, dtype)
        else:
            values = torch.empty(parameter.shape, dtype=dtype, device=device).normal_(0, _SPREAD)
        module._parameters[name] = _as_stored(parameter, values, device)


def _as_stored(parameter: nn.Parameter, values: torch.Tensor, device: torch.device) -> nn.Parameter:
    """The values in the class of the parameter that was there: bitsandbytes' quantise when they are moved."""
    kind = type(parameter)
    if kind is nn.Parameter:
        return nn.Parameter(values, requires_grad=False)
    made: nn.Parameter = kind(values.cpu(), requires_grad=False, **parameter.__dict__).to(device)
    return made
