"""The names of an adapter's tensors, as different programs write them, and the one form that is read here."""

from __future__ import annotations

import re

PREFIX = "base_model.model."  # before the name of every tensor in PEFT's layout
TEXT_PREFIXES = ("", "model.language_model.", "language_model.model.", "language_model.")
# Parts that wrappers of a model leave in its names: torch.compile, FSDP, activation checkpointing, data parallelism.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PARALLEL = re.compile(r"^(?:base_model\.model\.)?module\.")
# The adapter's own name, which PEFT leaves out when it saves, and a raw state dict has: lora_A.default.weight.
_NAMED = re.compile(r"\.(lora_[AB])\.[^.]+\.(weight|bias)$")
_NAMED_WHOLE = re.compile(
    r"\.(lora_embedding_[AB]|lora_magnitude_vector|trainable_tokens_delta)(?:\.[^.]+)?(?:\.weight)?$"
)
_SAVED = re.compile(r"\.modules_to_save(?:\.(?!weight$|bias$)[^.]+)?\.(weight|bias)$")
_TEXT_PART = re.compile(r"language_model\.")  # of a vision-language model

# Buffers in some old files; vision towers; multi-token prediction heads, which fine-tuning does not train.
_BESIDE_TEXT = re.compile(
    r".*rotary_emb\.inv_freq|.*attn\.(masked_)?bias|(model\.)?(visual|vision_tower|multi_modal_projector|mtp)\..*"
)


def is_beside_text(name: str) -> bool:
    """Whether a tensor of a model is none of the language model's weights."""
    return _BESIDE_TEXT.fullmatch(name) is not None


def canonical(key: str) -> str:
    """A tensor's name as PEFT saves it, without what wrappers and the adapter's own name add to it."""
    name = _PARALLEL.sub("", _WRAPPERS.sub("", key))
    while name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
    name = _NAMED.sub(r".\1.\2", name)
    name = _NAMED_WHOLE.sub(r".\1", name)
    return PREFIX + _SAVED.sub(r".\1", name)


def text_name(name: str) -> str:
    """The name of a tensor or module as in the text model alone."""
    return _TEXT_PART.sub("", name, count=1)
