"""Ways to use less memory at the cost of time, for when one example at a time is still too much."""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.autograd.graph import save_on_cpu
from transformers import PreTrainedModel

from bp_core.out_of_memory import PIECES, RECOMPUTE

from .lean_peft import PeftModel

OFFLOAD = "activations kept in the host's memory"

# Windows' driver model (WDDM), also under WSL, moves GPU memory to the host instead of failing.
SPILLS = sys.platform == "win32" or "microsoft" in platform.uname().release.lower()


def ways(model: PreTrainedModel | PeftModel, *, of_tokens: bool) -> list[str]:
    """The ways that this model and device support, cheapest first. `of_tokens`: the loss is a sum over tokens."""
    able = {
        RECOMPUTE: _base(model).supports_gradient_checkpointing,
        OFFLOAD: model.device.type == "cuda",
        PIECES: of_tokens,
    }
    return [way for way, can in able.items() if can]


def recompute_layers(model: PreTrainedModel | PeftModel) -> None:
    """Activation checkpointing: compute each layer's inner activations again in the backward pass."""
    base = _base(model)
    # transformers 5.23 renamed it, and deprecated the name of 5.0.
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def activations(ways: Collection[str]) -> AbstractContextManager[Any]:
    """The context for a forward pass."""
    return save_on_cpu(pin_memory=True) if OFFLOAD in ways else nullcontext()


def _base(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    return model.get_base_model() if isinstance(model, PeftModel) else model
