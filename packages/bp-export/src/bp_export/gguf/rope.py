"""Rotary embeddings: read from config.json, written as llama.cpp's fields and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf import RopeScalingType

Config = Mapping[str, Any]


def rope(config: Config) -> dict[str, Any]:
    """The rope settings, wherever transformers wrote them, always with rope_theta and rope_type.

    For a model with two kinds of layers: those of its full-attention layers.
    """
    values = _written(config)
    values = dict(values.get("full_attention") or values)
    for name in ("partial_rotary_factor", "original_max_position_embeddings"):
        if name in config:
            values.setdefault(name, config[name])
    values.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    values.setdefault("rope_type", values.get("type", "default"))
    return values


def kind(config: Config) -> str:
    """The rope type, by its newest name."""
    name = str(rope(config)["rope_type"])
    return "longrope" if name == "su" else name


def local_theta(config: Config) -> float:
    """rope_theta of Gemma 3's sliding-window layers."""
    written = _written(config).get("sliding_attention") or {}
    return float(written.get("rope_theta") or config.get("rope_local_base_freq") or 10000.0)


def rotated(config: Config) -> int:
    """How many values of each head are rotated."""
    return int(head_size(config) * rope(config).get("partial_rotary_factor", 1.0))


def head_size(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def scaling(config: Config) -> dict[str, Any]:
    """GGUF fields of linear scaling and of YaRN, by the name of the GGUFWriter method that adds them.

    Dynamic scaling changes nothing up to the context length, so it needs none.
    """
    values = rope(config)
    if kind(config) == "linear":
        return {"rope_scaling_type": RopeScalingType.LINEAR, "rope_scaling_factor": float(values["factor"])}
    return _yarn(values, config) if kind(config) == "yarn" else {}


def _yarn(values: Config, config: Config) -> dict[str, Any]:
    """YaRN (arXiv:2309.00071). llama.cpp multiplies the attention factor by 1 + 0.1 ln(factor) by itself."""
    original = values.get("original_max_position_embeddings") or config["max_position_embeddings"]
    factor = float(values.get("factor") or config["max_position_embeddings"] / original)
    fields = {
        "rope_scaling_type": RopeScalingType.YARN,
        "rope_scaling_factor": factor,
        "rope_scaling_orig_ctx_len": int(original),
    }
    attention = values.get("attention_factor")
    if attention is None and values.get("mscale") and values.get("mscale_all_dim"):
        attention = _magnitude(factor, values["mscale"]) / _magnitude(factor, values["mscale_all_dim"])
    if attention is not None:
        fields["rope_scaling_attn_factors"] = attention / _magnitude(factor)
    return fields


def unsupported_yarn(config: Config) -> str:
    """What llama.cpp does not read of YaRN's settings and these change; "" for nothing."""
    values = rope(config)
    usual: dict[str, float] = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
    changed = [name for name, value in usual.items() if values.get(name) not in (None, value)]
    return f"YaRN with another {changed[0]}" if kind(config) == "yarn" and changed else ""


def _magnitude(factor: float, scale: float = 1.0) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def long_attention_factor(config: Config) -> float:
    """LongRoPE's factor on attention (arXiv:2402.13753, as Phi uses it)."""
    original = rope(config)["original_max_position_embeddings"]
    stretch = config["max_position_embeddings"] / original
    return math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0


def tables(config: Config) -> dict[str, np.ndarray]:
    """Divisors of the rotary frequencies, float32 [rotated / 2], by GGUF tensor name; none for plain rope."""
    values = rope(config)
    if kind(config) == "llama3":
        return {"rope_freqs.weight": _llama3(config)}
    if kind(config) == "longrope":
        names = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
        return {name: np.array(values[key], np.float32) for name, key in names.items()}
    return {}


def _llama3(config: Config) -> np.ndarray:
    """Llama 3.1's scaling: divide low frequencies by `factor`, keep high ones, blend between. float32 [rotated / 2]."""
    values, size = rope(config), rotated(config)
    wavelength = 2 * math.pi * values["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float64) / size)
    turns = values["original_max_position_embeddings"] / wavelength
    low, high = values["low_freq_factor"], values["high_freq_factor"]
    keep = np.clip((turns - low) / (high - low), 0, 1)
    factors: np.ndarray = 1 / ((1 - keep) / values["factor"] + keep)
    return factors.astype(np.float32)


def _written(config: Config) -> Mapping[str, Any]:
    value: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return value
