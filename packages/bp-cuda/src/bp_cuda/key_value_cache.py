"""The key-value cache of generation, under the name that the installed transformers gives it."""

from __future__ import annotations

from inspect import signature

from transformers import PreTrainedModel

from .lean_peft import PeftModel


def cache_argument(model: PreTrainedModel | PeftModel) -> str:
    """The keyword for the cache: `cache` from transformers 5.24 on, which warns of the other at every token."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "cache" if "cache" in signature(base.forward).parameters else "past_key_values"
