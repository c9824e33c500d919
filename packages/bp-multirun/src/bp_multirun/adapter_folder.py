"""Reading and writing a LoRA adapter in PEFT's layout, without PEFT.

Adapters that cannot be merged by their two factors alone are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bp_core.errors import AdapterUnusable, MergeRefused

from .factors import Factors, Pair, check
from .tensor_file import TensorFileBroken, read, write

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_HARMLESS = {  # settings that do not matter for merging, or that the fingerprint compares
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "base_model_name_or_path"),
    *("task_type", "peft_type", "auto_mapping", "peft_version", "revision", "inference_mode", "exclude_modules"),
    *("lora_dropout", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "megatron_core", "eva_config"),
    *("runtime_config", "qalora_group_size", "ensure_weight_tying"),
}
_FRESH = (True, False, "gaussian", "eva", "orthogonal", None)  # initialisations that do not change the base
_WHY = {
    "use_dora": "DoRA trains magnitudes too",
    "bias": "biases are trained too",
    "lora_bias": "biases are trained too",
    "modules_to_save": "whole modules are trained too",
    "target_parameters": "it changes parameters that are no linear layers",
    "trainable_token_indices": "embeddings are trained too",
    "init_lora_weights": "that start changes the base model or keeps a factor fixed",
}


@dataclass(frozen=True, eq=False)
class Adapter:
    """Settings as PEFT stores them, float32 factors, and the type in which they are stored."""

    config: Mapping[str, Any]
    factors: Factors
    dtype: str  # float32, float16 or bfloat16


def read_adapter(folder: Path) -> Adapter:
    """Read the adapter in a folder; float32 factors are views into its file. Raises AdapterUnusable."""
    config = _config(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.is_file():
        raise AdapterUnusable(f"{WEIGHTS} is missing.", where=str(folder))
    try:
        file = read(path)
    except TensorFileBroken as error:
        raise AdapterUnusable(f"{error}.", where=str(path)) from error
    factors = _pairs(file.arrays, path)
    try:
        check(factors)
    except MergeRefused as error:
        raise AdapterUnusable(error.message, where=str(path)) from error
    _check_ranks(factors, config, path)
    stored = set(file.dtypes.values())
    dtype = next((name for name, code in _DTYPES.items() if stored == {code}), "float32")
    return Adapter(config, factors, dtype)


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write both files into an existing folder; the same adapter gives the same bytes.

    Raises MergeRefused if a value is too large for the adapter's type.
    """
    arrays = {
        f"base_model.model.{name}.lora_{factor}.weight": array
        for name, pair in adapter.factors.items()
        for factor, array in (("A", pair.a), ("B", pair.b))
    }
    text = json.dumps(dict(adapter.config), indent=2)
    (folder / CONFIG).write_text(text, encoding="utf-8", newline="\n")
    try:
        write(folder / WEIGHTS, arrays, _DTYPES[adapter.dtype], {"format": "pt"})
    except OverflowError as error:
        raise MergeRefused(f"{error}.", where=str(folder / WEIGHTS)) from error


def fingerprint(config: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of the settings that adapters must share to be merged."""
    targets = config.get("target_modules")
    shared = {
        "r": config["r"],
        "lora_alpha": float(config["lora_alpha"]),
        "use_rslora": bool(config.get("use_rslora")),
        "target_modules": targets if isinstance(targets, str) else sorted(targets or ()),
        "rank_pattern": list((config.get("rank_pattern") or {}).items()),  # the first that matches counts
        "alpha_pattern": list((config.get("alpha_pattern") or {}).items()),
        "base": config.get("base_model_name_or_path"),
    }
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()


def scaling(config: Mapping[str, Any], name: str) -> float:
    """The factor of B A in module `name`: alpha / rank, or alpha / √rank with rsLoRA."""
    rank = _rank(config, name)
    alpha = float(_patterned(config.get("alpha_pattern"), name, config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise AdapterUnusable(f"{CONFIG} is missing.", where=str(path.parent))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if (kind := config["peft_type"]) != "LORA":
            raise AdapterUnusable(f"it is a {kind} adapter; only LORA can be merged.", where=str(path))
        _ = int(config["r"]), float(config["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterUnusable(f"the settings cannot be read ({error}).", where=str(path)) from error
    for name, value in config.items():
        if _not_in_factors(name, value):
            reason = _WHY.get(name, "what that does is not known here")
            raise AdapterUnusable(
                f"it uses {name}={value!r}, and cannot be merged by its factors: {reason}.",
                where=str(path),
                fix="Train plain LoRA (rsLoRA, rank and alpha patterns are fine) for runs that are merged.",
            )
    return dict(config)


def _not_in_factors(name: str, value: object) -> bool:
    if name == "init_lora_weights":
        return value not in _FRESH
    return bool(value) and name not in _HARMLESS and (name, value) != ("bias", "none")


def _pairs(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, Pair]:
    halves: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        match = _KEY.fullmatch(key)
        if not match or array.ndim != 2:
            raise AdapterUnusable(f"the tensor {key} is no factor of a linear layer.", where=str(path))
        halves.setdefault(match["module"], {})[match["factor"]] = array
    for module, pair in halves.items():
        if len(pair) < 2:
            raise AdapterUnusable(f"{module} has only lora_{next(iter(pair))}.", where=str(path))
    return {module: Pair(halves[module]["A"], halves[module]["B"]) for module in sorted(halves)}


def _check_ranks(factors: Factors, config: Mapping[str, Any], path: Path) -> None:
    for name, pair in factors.items():
        if pair.rank != _rank(config, name):
            raise AdapterUnusable(
                f"{name} has rank {pair.rank}, the settings say {_rank(config, name)}.", where=str(path)
            )


def _rank(config: Mapping[str, Any], name: str) -> int:
    return int(_patterned(config.get("rank_pattern"), name, config["r"]))


def _patterned(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as PEFT chooses it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default
