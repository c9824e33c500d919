"""An adapter (LoRA, rsLoRA, DoRA), read without PEFT. Whatever cannot be merged exactly is refused, never guessed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bp_core import folders
from bp_core.errors import AdapterUnusable, ModelUnusable

from .safetensors_file import Weights

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_KEY = re.compile(r"base_model\.model\.(?P<module>.+?)\.(?P<part>lora_[AB]\.weight|lora_magnitude_vector|weight|bias)")
_PAIR = {"lora_A.weight", "lora_B.weight"}
_MAGNITUDE = "lora_magnitude_vector"
_DIMENSIONS = {_MAGNITUDE: (1,), "bias": (1,), "weight": (1, 2)}
_READ = {
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "use_dora"),
    "modules_to_save",
}
# Settings that say how the adapter was made, not what it computes.
_HARMLESS = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern"),
    *("megatron_core", "eva_config", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
}
_NEUTRAL = {"bias": "none"}
_FRESH = (True, False, "gaussian", "eva", "orthogonal", None)  # starts that leave the base weights as they are


class Change(Protocol):
    """What an adapter does to one weight of the given shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def applied(self, weight: np.ndarray) -> np.ndarray:
        """The merged weight, float32."""
        ...


@dataclass(frozen=True)
class Delta:
    """LoRA: adds scale × b @ a to a weight [out, in]; a is [rank, in], b [out, rank].

    With `magnitude` [out] it is DoRA (arXiv:2402.09353, equation 5): each row of the sum is brought to that length.
    """

    a: np.ndarray
    b: np.ndarray
    scale: float
    magnitude: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.b.shape[0], self.a.shape[1]

    def applied(self, weight: np.ndarray) -> np.ndarray:
        merged = self.b.astype(np.float32) @ self.a.astype(np.float32)
        merged *= np.float32(self.scale)
        merged += weight.astype(np.float32)
        if self.magnitude is not None:
            merged *= (self.magnitude.astype(np.float32) / np.linalg.norm(merged, axis=1))[:, None]
        return merged


@dataclass(frozen=True)
class Replacement:
    """A weight that was trained whole (PEFT's modules_to_save)."""

    weight: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def applied(self, weight: np.ndarray) -> np.ndarray:
        return self.weight.astype(np.float32)


def read(folder: Path) -> dict[str, Change]:
    """The changes of an adapter folder by the name of the weight they change. Raises AdapterUnusable."""
    check_folder(folder)
    config = _config(folder / CONFIG)
    try:
        weights = Weights(folder / WEIGHTS)
    except ModelUnusable as error:
        raise AdapterUnusable(error.message, where=str(folder / WEIGHTS)) from error
    changes: dict[str, Change] = {}
    for module, found in _parts(weights, folder).items():
        if whole := _replacements(module, found, config):
            changes |= whole
        else:
            changes[f"{module}.weight"] = _delta(module, found, config, folder)
    if not changes:
        raise AdapterUnusable("there are no LoRA weights in it.", where=str(folder / WEIGHTS))
    return changes


def check_folder(folder: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise AdapterUnusable(f"{name} is missing.", where=str(folder))
    if (folder / folders.MANIFEST).is_file() and (problem := folders.damage(folder)):
        raise AdapterUnusable(f"the folder is damaged: {problem}.", where=str(folder))


def _config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config["peft_type"], int(config["r"]), float(config["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterUnusable(f"the settings cannot be read ({error}).", where=str(path)) from error
    if kind[0] != "LORA":
        raise AdapterUnusable(f"it is a {kind[0]} adapter; only LORA is supported.", where=str(path))
    for name, value in config.items():
        if _changes_the_sum(name, value):
            raise AdapterUnusable(
                f"it uses {name}={value!r}, which cannot be merged here.",
                where=str(path),
                fix="Train a LoRA adapter (rsLoRA and DoRA are fine), or merge this one with PEFT.",
            )
    return dict(config)


def _changes_the_sum(name: str, value: object) -> bool:
    if name == "init_lora_weights":
        return value not in _FRESH
    if name in _READ or name in _HARMLESS or not value:
        return False
    return _NEUTRAL.get(name) != value


def _parts(weights: Weights, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name in weights.names():
        match = _KEY.fullmatch(name)
        if not match or len(weights.shape(name)) not in _DIMENSIONS.get(match["part"], (2,)):
            raise AdapterUnusable(f"the tensor {name} is not part of a LoRA adapter.", where=str(folder))
        values = weights.array(name)
        if not np.isfinite(values.astype(np.float32)).all():
            raise AdapterUnusable(f"{name} has values that are no finite numbers.", where=str(folder))
        parts.setdefault(match["module"], {})[match["part"]] = values
    return parts


def _replacements(module: str, found: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> dict[str, Change]:
    """The tensors of a module that was trained whole; none if it was not."""
    saved = any(module.endswith(name) for name in config.get("modules_to_save") or ())  # as PEFT chooses them
    if not saved or not found.keys() <= {"weight", "bias"}:
        return {}
    return {f"{module}.{part}": Replacement(values) for part, values in found.items()}


def _delta(module: str, found: Mapping[str, np.ndarray], config: Mapping[str, Any], folder: Path) -> Delta:
    wanted = _PAIR | ({_MAGNITUDE} if config.get("use_dora") else set())
    if found.keys() != wanted:
        raise AdapterUnusable(
            f"{module} has {', '.join(sorted(found))}; it needs {', '.join(sorted(wanted))}.", where=str(folder)
        )
    a, b = found["lora_A.weight"], found["lora_B.weight"]
    rank = int(_patterned(config.get("rank_pattern"), module, config["r"]))
    alpha = float(_patterned(config.get("alpha_pattern"), module, config["lora_alpha"]))
    if a.shape[0] != rank or b.shape[1] != rank:
        raise AdapterUnusable(
            f"{module} has rank {a.shape[0]} × {b.shape[1]}, the settings say {rank}.", where=str(folder)
        )
    if config.get("fan_in_fan_out"):
        raise AdapterUnusable(f"{module} is stored transposed (fan_in_fan_out).", where=str(folder))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Delta(a, b, scale, found.get(_MAGNITUDE))


def _patterned(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's name, as PEFT chooses it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
