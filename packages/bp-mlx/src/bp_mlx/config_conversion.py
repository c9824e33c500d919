"""A model's config.json in the form that mlx-lm reads, and the row length up to which mlx-lm computes it exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

_TEXT_OF = {"qwen3_5_text": "qwen3_5"}  # text models that mlx-lm has only as part of a larger one
_LONG = ("longrope", "su")
# Models for which mlx-lm implements sliding windows; in others every token attends to all before it.
_WINDOWED = ("gemma3", "gemma3_text", "llama", "smollm3", "qwen3_5", "qwen3_5_text")


def for_mlx(config: Config) -> dict[str, Any]:
    """The settings of `config` to replace: transformers 5 writes rotary settings where mlx-lm does not read them."""
    if whole := _TEXT_OF.get(str(config.get("model_type"))):
        return {"model_type": whole, "text_config": {**config, **_rotary(config)}}
    changed = _rotary(config) | _pattern(config)
    if text := config.get("text_config"):
        changed["text_config"] = {**text, **for_mlx(text)}
        if "vocab_size" in text:  # mlx-lm reads the outer one, or a default
            changed["vocab_size"] = text["vocab_size"]
    return changed


def longest(config: Config) -> int | None:
    """The longest row, in tokens, that mlx-lm computes exactly; None if there is no limit."""
    text = config.get("text_config") or config
    limits = []
    if (scaling := _scaling(text)) and _kind(scaling) in _LONG:
        limits.append(_original(text, scaling))
    window = text.get("sliding_window")
    if window and text.get("use_sliding_window", True) and text.get("model_type") not in _WINDOWED:
        limits.append(int(window))
    return min(limits, default=None)


def _rotary(config: Config) -> dict[str, Any]:
    written = config.get("rope_parameters") or {}
    changed: dict[str, Any] = {}
    if "full_attention" in written:  # by kind of layer, as in Gemma 3
        changed["rope_local_base_freq"] = written["sliding_attention"]["rope_theta"]
        written = written["full_attention"]
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in written:
            changed[name] = written[name]
    scaling = _scaling(config)
    if scaling and _kind(scaling) in _LONG:  # mlx-lm wrongly uses the long factors for short rows too
        changed["original_max_position_embeddings"] = _original(config, scaling)
        changed["rope_scaling"] = {**scaling, "type": "longrope", "long_factor": scaling["short_factor"]}
    elif written:
        changed["rope_scaling"] = {**scaling, "type": _kind(scaling)} if scaling else None
    return changed


def _scaling(config: Config) -> Config | None:
    """The RoPE scaling settings, under any of their keys; None without scaling."""
    written: Config = config.get("rope_parameters") or config.get("rope_scaling") or {}
    written = written.get("full_attention") or written
    return written if _kind(written) not in ("default", "mrope") else None


def _kind(scaling: Config) -> str:
    return str(scaling.get("rope_type") or scaling.get("type") or "default")


def _original(config: Config, scaling: Config) -> int:
    name = "original_max_position_embeddings"
    return int(config.get(name) or scaling.get(name) or config["max_position_embeddings"])


def _pattern(config: Config) -> dict[str, Any]:
    """For Gemma 3: every how many layers one has full attention, which is how mlx-lm describes it."""
    kinds = config.get("layer_types") or []
    if not str(config.get("model_type")).startswith("gemma3") or "full_attention" not in kinds:
        return {}
    every = kinds.index("full_attention") + 1
    regular = ["full_attention" if (n + 1) % every == 0 else "sliding_attention" for n in range(len(kinds))]
    if kinds != regular:
        raise ValueError("its layers with and without a sliding window do not alternate as mlx-lm has them")
    return {"sliding_window_pattern": every}
