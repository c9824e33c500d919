"""The model families we write as GGUF: what each needs beyond the common fields and names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_core.errors import UnsupportedArchitecture

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """One architecture. `interleaved`: llama.cpp rotates neighbouring rows of q and k, Hugging Face rotates halves."""

    architecture: str
    interleaved: bool = False


FAMILIES = {
    "LlamaForCausalLM": Family("llama", interleaved=True),
    "Qwen2ForCausalLM": Family("qwen2"),
}


def find(config: Config) -> Family:
    """The family of a model's config.json. Raises UnsupportedArchitecture before any work is done."""
    names = config.get("architectures") or ["(none named)"]
    if names[0] not in FAMILIES:
        raise UnsupportedArchitecture(f"{names[0]} is not supported; supported are: {', '.join(FAMILIES)}.")
    _refuse_variants(config)
    return FAMILIES[names[0]]


def rope(config: Config) -> dict[str, Any]:
    """The rotary settings, wherever this version of transformers wrote them: always with rope_theta and rope_type."""
    values = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    values.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    values.setdefault("rope_type", values.get("type", "default"))
    return values


def head_size(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope_factors(config: Config) -> np.ndarray:
    """Llama 3's divisors of the rotary frequencies, float32 [head size / 2].

    Long wavelengths are divided by `factor`, short ones kept, those between blended (Llama 3.1 reference code).
    """
    values, size = rope(config), head_size(config)
    wavelength = 2 * math.pi * values["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float64) / size)
    turns = values["original_max_position_embeddings"] / wavelength
    low, high = values["low_freq_factor"], values["high_freq_factor"]
    keep = np.clip((turns - low) / (high - low), 0, 1)
    factors: np.ndarray = 1 / ((1 - keep) / values["factor"] + keep)
    return factors.astype(np.float32)


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of q or k (weight or bias) from Hugging Face's half-and-half to llama.cpp's neighbours."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def deinterleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of `interleave`."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _refuse_variants(config: Config) -> None:
    kind = rope(config)["rope_type"]
    if kind not in ("default", "linear", "llama3"):
        raise UnsupportedArchitecture(f"rotary embeddings of type {kind!r} are not supported.")
    if config.get("hidden_act", "silu") != "silu":
        raise UnsupportedArchitecture(f"the activation {config['hidden_act']!r} is not supported.")
    if config.get("use_sliding_window"):
        raise UnsupportedArchitecture("sliding-window attention is not supported for this architecture.")
