"""The fields of a GGUF → the config.json of the model it was made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_core.errors import UnsupportedArchitecture

from . import rope
from .reader import GgufFile

Config = dict[str, Any]

_LONG = "rope_factors_long.weight"
_LLAMA3 = "rope_freqs.weight"
# Llama 3.1 to 3.3 blend between the wavelengths that fit the original context four times and once.
_LLAMA3_BLEND = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_ORIGINAL_CONTEXTS = tuple(1 << power for power in range(5, 21))
_FULL_ATTENTION_EVERY = {"gemma2": 2, "gemma3": 6}  # layers; those between have a window
_LARGE_GEMMA = {"gemma2": 46, "gemma3": 62}  # layers of the size that scales attention in its own way


class Fields:
    """The fields of one architecture in a file, by their names without the architecture's."""

    def __init__(self, gguf: GgufFile) -> None:
        self.gguf = gguf
        self.architecture = str(gguf.field("general.architecture"))

    def need(self, name: str) -> Any:
        """A field that must be there. Raises GgufUnusable."""
        return self.gguf.field(f"{self.architecture}.{name}")

    def get(self, name: str, default: Any = None) -> Any:
        return self.gguf.fields.get(f"{self.architecture}.{name}", default)

    def number(self, name: str, default: float | None = None) -> float:
        """A float32 as the decimal it was written from: 9.99999974e-06 is 1e-05."""
        value = self.need(name) if default is None else self.get(name, default)
        return float(f"{value:.6g}")

    @property
    def heads(self) -> int:
        return int(self.need("attention.head_count"))

    @property
    def head_size(self) -> int:
        return int(self.get("attention.key_length") or self.need("embedding_length") // self.heads)

    @property
    def layers(self) -> int:
        return int(self.need("block_count"))

    def refuse(self, what: str) -> UnsupportedArchitecture:
        return UnsupportedArchitecture(f"{what} cannot be unpacked.", where=str(self.gguf.path))


@dataclass(frozen=True)
class UnpackedFamily:
    """One architecture of llama.cpp as a class of transformers, and what its config.json says beside the usual."""

    model_class: str
    model_type: str
    own: Callable[[Fields], Config]


def unpacked_config(gguf: GgufFile) -> Config:
    """The config.json of a GGUF. Raises UnsupportedArchitecture, GgufUnusable."""
    fields = Fields(gguf)
    if fields.architecture not in FAMILIES:
        known = ", ".join(FAMILIES)
        message = f"cannot unpack a {fields.architecture} model; these can be: {known}."
        raise UnsupportedArchitecture(message, where=str(gguf.path))
    family = FAMILIES[fields.architecture]
    return {
        "architectures": [family.model_class],
        "model_type": family.model_type,
        "hidden_size": fields.need("embedding_length"),
        "intermediate_size": fields.need("feed_forward_length"),
        "num_hidden_layers": fields.layers,
        "num_attention_heads": fields.heads,
        "num_key_value_heads": fields.get("attention.head_count_kv", fields.heads),
        "head_dim": fields.head_size,
        "max_position_embeddings": fields.need("context_length"),
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "vocab_size": gguf.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in gguf.tensors else 0,
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "hidden_act": "silu",
        "rope_parameters": _rope(fields),
        **family.own(fields),
    }


def _rope(fields: Fields) -> Config:
    """The rotary settings of the layers with full attention."""
    plain: Config = {"rope_theta": fields.number("rope.freq_base", 10000.0), "rope_type": "default"}
    kind = fields.get("rope.scaling.type", "none")
    if kind == "linear":
        return plain | {"rope_type": "linear", "factor": fields.number("rope.scaling.factor")}
    if kind != "none" and not (kind == "longrope" and _LONG in fields.gguf.tensors):
        raise fields.refuse(f"a rotary embedding scaled by {kind!r}")
    if _LLAMA3 in fields.gguf.tensors:
        return plain | _llama3(fields, plain["rope_theta"])
    return plain


def _llama3(fields: Fields, theta: float) -> Config:
    """The settings that make the file's table of divisors; of several, those of Llama 3.1 to 3.3."""
    table = fields.gguf.array(_LLAMA3)
    for original in _ORIGINAL_CONTEXTS:
        settings = _LLAMA3_BLEND | {
            "rope_type": "llama3",
            "factor": float(table.max()),
            "original_max_position_embeddings": original,
        }
        config = {"rope_parameters": settings | {"rope_theta": theta}, "head_dim": fields.head_size}
        if np.allclose(rope.tables(config)[_LLAMA3], table, rtol=1e-6):
            return settings
    raise fields.refuse("a rotary embedding with an unknown table")


def _llama(fields: Fields) -> Config:
    tensors = fields.gguf.tensors
    return {"attention_bias": "blk.0.attn_q.bias" in tensors, "mlp_bias": "blk.0.ffn_up.bias" in tensors}


def _mistral(fields: Fields) -> Config:
    if fields.get("attention.temperature_scale"):
        raise fields.refuse("attention that depends on the place in the text")
    return {"sliding_window": None}


def _smollm3(fields: Fields) -> Config:
    return {"attention_bias": False, "mlp_bias": False, "use_sliding_window": False, "no_rope_layer_interval": 4}


def _qwen2(fields: Fields) -> Config:
    return {"use_sliding_window": False}


def _qwen3(fields: Fields) -> Config:
    return {"use_sliding_window": False, "attention_bias": False}


def _qwen35(fields: Fields) -> Config:
    interval = fields.get("full_attention_interval", 4)
    kinds = ["linear_attention" if layer % interval else "full_attention" for layer in range(1, fields.layers + 1)]
    value_heads = fields.need("ssm.time_step_rank")
    return {
        "attention_bias": False,
        "layer_types": kinds,
        "full_attention_interval": interval,
        "linear_conv_kernel_dim": fields.need("ssm.conv_kernel"),
        "linear_key_head_dim": fields.need("ssm.state_size"),
        "linear_num_key_heads": fields.need("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_value_head_dim": fields.need("ssm.inner_size") // value_heads,
        "rope_parameters": _rope(fields)
        | {
            "mrope_interleaved": True,
            "mrope_section": list(fields.get("rope.dimension_sections", (11, 11, 10)))[:3],
            "partial_rotary_factor": _rotated_share(fields),
        },
    }


def _phi3(fields: Fields) -> Config:
    """Without head_dim, which transformers takes from the sizes of the model here."""
    rotary = _rope(fields) | {"partial_rotary_factor": _rotated_share(fields)}
    original = fields.get("rope.scaling.original_context_length", fields.need("context_length"))
    if _LONG in fields.gguf.tensors:
        rotary |= {
            "rope_type": "longrope",
            "original_max_position_embeddings": original,
            "long_factor": [float(f"{value:.7g}") for value in fields.gguf.array(_LONG)],
            "short_factor": [float(f"{value:.7g}") for value in fields.gguf.array("rope_factors_short.weight")],
        }
    return {
        "original_max_position_embeddings": original,
        "partial_rotary_factor": rotary["partial_rotary_factor"],
        "rope_parameters": rotary,
        "sliding_window": fields.get("attention.sliding_window") or None,
    }


def _gemma2(fields: Fields) -> Config:
    return _gemma(fields) | {
        "attn_logit_softcapping": fields.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": fields.number("final_logit_softcapping", 30.0),
    }


def _gemma3(fields: Fields) -> Config:
    cap = fields.get("final_logit_softcapping")
    local = {"rope_theta": fields.number("rope.freq_base_swa", 10000.0), "rope_type": "default"}
    return _gemma(fields) | {
        "final_logit_softcapping": cap,
        "rope_parameters": {"full_attention": _rope(fields), "sliding_attention": local},
    }


def _gemma(fields: Fields) -> Config:
    every = _FULL_ATTENTION_EVERY[fields.architecture]
    kinds = ["sliding_attention" if layer % every else "full_attention" for layer in range(1, fields.layers + 1)]
    large = fields.layers == _LARGE_GEMMA[fields.architecture]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "sliding_window": fields.need("attention.sliding_window"),
        "layer_types": kinds,
        "query_pre_attn_scalar": fields.need("embedding_length") // fields.heads if large else fields.head_size,
    }


def _rotated_share(fields: Fields) -> float:
    """The share of a head's values that are rotated."""
    return int(fields.get("rope.dimension_count", fields.head_size)) / fields.head_size


FAMILIES: Mapping[str, UnpackedFamily] = {
    "llama": UnpackedFamily("LlamaForCausalLM", "llama", _llama),
    "mistral3": UnpackedFamily("MistralForCausalLM", "mistral", _mistral),
    "smollm3": UnpackedFamily("SmolLM3ForCausalLM", "smollm3", _smollm3),
    "qwen2": UnpackedFamily("Qwen2ForCausalLM", "qwen2", _qwen2),
    "qwen3": UnpackedFamily("Qwen3ForCausalLM", "qwen3", _qwen3),
    "qwen35": UnpackedFamily("Qwen3_5ForCausalLM", "qwen3_5_text", _qwen35),
    "phi3": UnpackedFamily("Phi3ForCausalLM", "phi3", _phi3),
    "gemma2": UnpackedFamily("Gemma2ForCausalLM", "gemma2", _gemma2),
    "gemma3": UnpackedFamily("Gemma3ForCausalLM", "gemma3_text", _gemma3),
}
