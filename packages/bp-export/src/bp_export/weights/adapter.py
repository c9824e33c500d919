"""Read an adapter (LoRA, rsLoRA, DoRA) without PEFT. What cannot be merged exactly is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from bp_core import folders
from bp_core.adapter_config import CONFIG, WEIGHTS, AdapterConfig
from bp_core.errors import AdapterUnusable, ModelUnusable

from .safetensors_file import Weights

_KEY = re.compile(r"base_model\.model\.(?P<module>.+?)\.(?P<part>lora_[AB]\.weight|lora_magnitude_vector|weight|bias)")
_PAIR = {"lora_A.weight", "lora_B.weight"}
_MAGNITUDE = "lora_magnitude_vector"
_DIMENSIONS = {_MAGNITUDE: (1,), "bias": (1,), "weight": (1, 2)}
_COMPUTED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern")


class Change(Protocol):
    """What an adapter changes in one weight of this shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def applied(self, weight: np.ndarray) -> np.ndarray:
        """The merged weight, float32."""
        ...


@dataclass(frozen=True)
class Delta:
    """LoRA: adds scale × b @ a to a weight [out, in]; a is [rank, in], b [out, rank].

    With `magnitude` [out] it is DoRA (arXiv:2402.09353, equation 5): each row of the sum is scaled to that norm.
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
    """A fully trained weight (PEFT's modules_to_save)."""

    weight: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def applied(self, weight: np.ndarray) -> np.ndarray:
        return self.weight.astype(np.float32)


def read(folder: Path) -> dict[str, Change]:
    """The changes of an adapter, by weight name. Raises AdapterUnusable."""
    check_folder(folder)
    config = AdapterConfig.read(folder, _COMPUTED)
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


def _parts(weights: Weights, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name in weights.names():
        match = _KEY.fullmatch(name)
        if not match or len(weights.shape(name)) not in _DIMENSIONS.get(match["part"], (2,)):
            raise AdapterUnusable(f"the tensor {name} is not part of a LoRA adapter.", where=str(folder))
        values = weights.array(name)
        if not np.isfinite(values.astype(np.float32)).all():
            raise AdapterUnusable(f"{name} has values that are not finite (NaN or infinity).", where=str(folder))
        parts.setdefault(match["module"], {})[match["part"]] = values
    return parts


def _replacements(module: str, found: Mapping[str, np.ndarray], config: AdapterConfig) -> dict[str, Change]:
    """The tensors of a fully trained module; none for any other."""
    saved = any(module.endswith(name) for name in config.modules_to_save)  # as PEFT chooses them
    if not saved or not found.keys() <= {"weight", "bias"}:
        return {}
    return {f"{module}.{part}": Replacement(values) for part, values in found.items()}


def _delta(module: str, found: Mapping[str, np.ndarray], config: AdapterConfig, folder: Path) -> Delta:
    wanted = _PAIR | ({_MAGNITUDE} if config.dora else set())
    if found.keys() != wanted:
        raise AdapterUnusable(
            f"{module} has {', '.join(sorted(found))}; it needs {', '.join(sorted(wanted))}.", where=str(folder)
        )
    a, b = found["lora_A.weight"], found["lora_B.weight"]
    rank = config.rank_of(module)
    if a.shape[0] != rank or b.shape[1] != rank:
        raise AdapterUnusable(
            f"{module} has rank {a.shape[0]} × {b.shape[1]}, the settings say {rank}.", where=str(folder)
        )
    return Delta(a, b, config.scale(module), found.get(_MAGNITUDE))
