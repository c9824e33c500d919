"""The model families that we write as GGUF, and what each needs beyond the common fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bp_core.adapter_keys import is_beside_text
from bp_core.errors import UnsupportedArchitecture

from . import rope, tensor_layout
from .rope import Config

Fields = dict[str, Any]  # by the name of the GGUFWriter method that adds them


@dataclass(frozen=True)
class Family:
    """An architecture of llama.cpp and its peculiarities.

    `arrange` changes a tensor to llama.cpp's layout. `fields` adds GGUF fields. `unsupported` names what llama.cpp
    cannot compute of a config, "" if nothing. `defaults` are what transformers assumes where config.json is silent.
    `always_tied`: llama.cpp takes the embedding for the head, whatever the file has.
    """

    architecture: str
    arrange: Callable[[str, np.ndarray, Config], np.ndarray] = lambda name, values, config: values
    fields: Callable[[Config], Fields] = lambda config: {}
    unsupported: Callable[[Config], str] = lambda config: ""
    ropes: tuple[str, ...] = ("default", "linear", "dynamic")
    activation: str = "silu"
    defaults: Config = field(default_factory=dict)
    always_tied: bool = False


def _phi3(config: Config) -> Fields:
    original = rope.rope(config).get("original_max_position_embeddings", config["max_position_embeddings"])
    # 0 tells llama.cpp that this is Phi-4 and has no window
    fields = {"rope_scaling_orig_ctx_len": original, "sliding_window": config.get("sliding_window") or 0}
    if rope.kind(config) == "longrope":
        fields["rope_scaling_attn_factors"] = rope.long_attention_factor(config)
    return fields


def _gemma2(config: Config) -> Fields:
    caps = {f"{name}_logit_softcapping": config[f"{name}_logit_softcapping"] for name in ("attn", "final")}
    return {"sliding_window": config["sliding_window"]} | caps


def _gemma3(config: Config) -> Fields:
    cap = config.get("final_logit_softcapping")
    fields = {"sliding_window": config["sliding_window"], "rope_freq_base_swa": rope.local_theta(config)}
    return fields | ({"final_logit_softcapping": cap} if cap else {})


def _qwen35(config: Config) -> Fields:
    sections = list(rope.rope(config).get("mrope_section", (11, 11, 10)))
    return {
        "ssm_conv_kernel": config["linear_conv_kernel_dim"],
        "ssm_state_size": config["linear_key_head_dim"],
        "ssm_group_count": config["linear_num_key_heads"],
        "ssm_time_step_rank": config["linear_num_value_heads"],
        "ssm_inner_size": config["linear_value_head_dim"] * config["linear_num_value_heads"],
        "full_attention_interval": config.get("full_attention_interval", 4),
        "rope_dimension_sections": (sections + [0] * 4)[:4],
    }


def _sliding_window(config: Config) -> str:
    return "sliding-window attention" if config.get("use_sliding_window") else ""


def _without_rope(config: Config) -> str:
    layers = range(1, config["num_hidden_layers"] + 1)
    usual = [int(layer % 4 != 0) for layer in layers]
    return _sliding_window(config) or (
        "other layers without rope" if config.get("no_rope_layers", usual) != usual else ""
    )


def _layer_order(period: int, odd: str) -> Callable[[Config], str]:
    """llama.cpp assumes that every `period`-th layer uses full attention, the others `odd`."""

    def unsupported(config: Config) -> str:
        usual = [odd if layer % period else "full_attention" for layer in range(1, config["num_hidden_layers"] + 1)]
        return "another order of layers" if config.get("layer_types", usual) != usual else ""

    return unsupported


def _gemma_variants(period: int, large: int) -> Callable[[Config], str]:
    """Gemma's largest model, with `large` layers, scales attention by hidden size / heads instead of head size."""

    def unsupported(config: Config) -> str:
        own = config["hidden_size"] // config["num_attention_heads"]
        usual = own if config["num_hidden_layers"] == large else rope.head_size(config)
        wanted = config.get("query_pre_attn_scalar", usual)
        other = "" if math.isclose(wanted, usual) else f"attention scaled by {wanted}"
        return other or _layer_order(period, "sliding_attention")(config)

    return unsupported


_YARN = ("default", "linear", "dynamic", "yarn")
_LLAMA = Family("llama", tensor_layout.interleaved, ropes=(*_YARN, "llama3"), unsupported=_sliding_window)
# llama.cpp ignores Mistral 7B 0.1's window of 4096 tokens, which changes nothing up to that length.
_QWEN35 = Family(
    "qwen35",
    tensor_layout.hybrid,
    _qwen35,
    _layer_order(4, "linear_attention"),
    defaults={"partial_rotary_factor": 0.25},
)
_GEMMA = {"rms_norm_eps": 1e-6, "head_dim": 256}
_GEMMA3 = Family(
    "gemma3",
    tensor_layout.shifted_norms,
    _gemma3,
    _gemma_variants(6, large=62),
    activation="gelu_pytorch_tanh",
    defaults=_GEMMA
    | {"max_position_embeddings": 131072, "num_attention_heads": 8, "num_key_value_heads": 4, "rope_theta": 1e6},
)
FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Mistral3ForConditionalGeneration": Family("mistral3", tensor_layout.interleaved),
    "SmolLM3ForCausalLM": Family("smollm3", tensor_layout.interleaved, unsupported=_without_rope),
    "Qwen2ForCausalLM": Family("qwen2", unsupported=_sliding_window, ropes=_YARN),
    "Qwen3ForCausalLM": Family("qwen3", unsupported=_sliding_window, ropes=_YARN),
    "Qwen3_5ForCausalLM": _QWEN35,
    "Qwen3_5ForConditionalGeneration": _QWEN35,
    "Phi3ForCausalLM": Family("phi3", fields=_phi3, ropes=("default", "longrope")),
    "Gemma2ForCausalLM": Family(
        "gemma2",
        tensor_layout.shifted_norms,
        _gemma2,
        _gemma_variants(2, large=46),
        activation="gelu_pytorch_tanh",
        defaults=_GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        always_tied=True,
    ),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": _GEMMA3,
}


def find(written: Config) -> tuple[Family, Config]:
    """The family of a model, and its text settings with transformers' defaults filled in.

    `written` is its config.json. Raises UnsupportedArchitecture.
    """
    names = written.get("architectures") or ["(none named)"]
    if names[0] not in FAMILIES:
        raise UnsupportedArchitecture(f"{names[0]} is not supported; supported are: {', '.join(FAMILIES)}.")
    family = FAMILIES[names[0]]
    config = {**family.defaults, **written, **(written.get("text_config") or {})}
    _check_variant(family, config)
    return family, config


def unused(name: str) -> bool:
    """Whether llama.cpp does not need a tensor."""
    return is_beside_text(name)


def _check_variant(family: Family, config: Config) -> None:
    activation = config.get("hidden_activation") or config.get("hidden_act") or family.activation
    reason = family.unsupported(config) or rope.unsupported_yarn(config)
    if rope.kind(config) not in family.ropes:
        reason = f"a rotary embedding of type {rope.kind(config)!r}"
    elif activation != family.activation:
        reason = f"the activation {activation!r}"
    if reason:
        raise UnsupportedArchitecture(f"{reason} is not supported for {family.architecture}.")
