"""Read an adapter (LoRA, rsLoRA, DoRA) without PEFT. What cannot be merged exactly is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bp_core.adapter_config import CONFIG, AdapterConfig
from bp_core.adapter_keys import text_name
from bp_core.errors import AdapterUnusable

from .adapter_file import AdapterFile, check_folder
from .changes import Change, Delta, Replacement, SavedBase, TrainedRows, chained

__all__ = ["Change", "Delta", "Replacement", "changes_in", "check_complete", "check_folder", "read"]

_PARTS = "|".join(
    (
        *(r"lora_[AB]\.weight", "lora_magnitude_vector", r"lora_embedding_[AB]"),
        *(r"(?:token_adapter\.)?(?:base_layer|original_module)\.(?:weight|bias)", "weight", "bias"),
        r"(?:token_adapter\.)?trainable_tokens_delta",
    )
)
_KEY = re.compile(rf"base_model\.model\.(?P<module>.+?)\.(?P<part>{_PARTS})")
_PAIR = {"lora_A.weight", "lora_B.weight"}
_EMBEDDING_PAIR = {"lora_embedding_A", "lora_embedding_B"}
_MAGNITUDE = "lora_magnitude_vector"
_ROWS = "trainable_tokens_delta"
_SAVED = ("base_layer.weight", "original_module.weight")
_DIMENSIONS = {_MAGNITUDE: (1,), "bias": (1,), "base_layer.bias": (1,), "weight": (1, 2)}
_COMPUTED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "bias", "trainable_token_indices")
_EMBEDDING, _HEAD = "embed_tokens", "lm_head"
_LAYER = re.compile(r"(.*?layers)\.\d+\.")
_TEXT_LAYERS = "model.layers"
_SHOWN = 3


def read(folder: Path) -> dict[str, Change]:
    """The changes of an adapter, by weight name. Raises AdapterUnusable."""
    check_folder(folder)
    return changes_in(AdapterFile.open(folder))


def changes_in(file: AdapterFile) -> dict[str, Change]:
    """The changes that an open adapter makes, by weight name. Raises AdapterUnusable."""
    config = file.config(_COMPUTED)
    found = _parts(file)
    embeddings_saved = any(
        _last(module) == _EMBEDDING and not parts.keys().isdisjoint(("weight", *_SAVED))
        for module, parts in found.items()
    )
    changes: dict[str, Change] = {}
    for module, parts in found.items():
        changes |= _Module(module, parts, config, file.folder, embeddings_saved).changes()
    if not changes:
        raise AdapterUnusable("there are no LoRA weights in it.", where=str(file.file))
    return changes


def check_complete(file: AdapterFile, modules: Iterable[str]) -> None:
    """Raise AdapterUnusable where the settings say that one of the base's `modules` was trained, and nothing is there.

    PEFT reads such an adapter, too, and the module then answers as in the base.
    """
    config = AdapterConfig.of_file(file.values, file.folder / CONFIG, file.values)
    there = {text_name(match["module"]) for name in file.names() if (match := _KEY.fullmatch(name))}
    # A vision tower has layers of the same names, which need not have been trained.
    roots = {_TEXT_LAYERS, *map(_root, there)}
    known = [name for name in map(text_name, modules) if _root(name) in roots]
    missing = sorted(name for name in known if name not in there and config.targets(name))
    if not missing:
        return
    shown = ", ".join(missing[:_SHOWN])
    message = f"its settings name {len(missing)} modules that it has no weights for, such as {shown}."
    fix = "Save the adapter again with model.save_pretrained(FOLDER), after all its weights were gathered."
    raise AdapterUnusable(message, where=str(file.file), fix=fix)


def _parts(file: AdapterFile) -> dict[str, dict[str, np.ndarray]]:
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name in file.names():
        match = _KEY.fullmatch(name)
        if not match:
            raise AdapterUnusable(f"the tensor {name} is not part of a LoRA adapter.", where=str(file.folder))
        part = match["part"].removeprefix("token_adapter.")
        if len(file.shape(name)) not in _DIMENSIONS.get(part, (2,)):
            raise AdapterUnusable(f"the tensor {name} is not part of a LoRA adapter.", where=str(file.folder))
        values = file.array(name)
        if not np.isfinite(values.astype(np.float32)).all():
            raise AdapterUnusable(f"{name} has values that are not finite (NaN or infinity).", where=str(file.folder))
        parts.setdefault(match["module"], {})[part] = values
    return parts


class _Module:
    """What the tensors of one module change."""

    def __init__(
        self, name: str, parts: Mapping[str, np.ndarray], config: AdapterConfig, folder: Path, embeddings_saved: bool
    ) -> None:
        self.name, self.parts, self.config, self.folder = name, parts, config, folder
        self.embeddings_saved = embeddings_saved

    def changes(self) -> dict[str, Change]:
        """By the names of the module's weight and bias."""
        weight = [*self._saved(), *self._trained(), *self._rows()]
        changes: dict[str, Change] = {}
        if change := chained(weight):
            changes[f"{self.name}.weight"] = change
        for part in ("base_layer.bias", "bias"):
            if part in self.parts:
                changes[f"{self.name}.bias"] = Replacement(self.parts[part])
        return changes

    def _saved(self) -> list[Change]:
        """The base's own weight, where it was saved."""
        for part in _SAVED:
            if part in self.parts:
                return [SavedBase(self.parts[part])]
        return []

    def _trained(self) -> list[Change]:
        lora = {name: values for name, values in self.parts.items() if name.startswith("lora_")}
        whole = self.parts.get("weight")
        if whole is not None:
            return [self._whole(whole, lora)]
        return [self._delta(lora)] if lora else []

    def _whole(self, weight: np.ndarray, lora: Mapping[str, np.ndarray]) -> Change:
        saved = any(self.name.endswith(name) for name in self.config.modules_to_save)  # as PEFT chooses them
        if saved and not lora:
            return Replacement(weight)
        if not lora and self.embeddings_saved and _last(self.name) in (_EMBEDDING, _HEAD):
            return SavedBase(weight)
        raise self._refused({*lora, "weight"}, self._wanted())

    def _delta(self, lora: Mapping[str, np.ndarray]) -> Delta:
        if lora.keys() == _EMBEDDING_PAIR and not self.config.dora:
            # an embedding's factors are those of its transpose: [rank, vocabulary] and [in, rank]
            a, b = lora["lora_embedding_B"].T, lora["lora_embedding_A"].T
        elif lora.keys() == self._wanted():
            a, b = lora["lora_A.weight"], lora["lora_B.weight"]
        else:
            raise self._refused(set(self.parts), self._wanted())
        rank = self.config.rank_of(self.name)
        if a.shape[0] != rank or b.shape[1] != rank:
            raise AdapterUnusable(
                f"{self.name} has rank {a.shape[0]} × {b.shape[1]}, the settings say {rank}.", where=str(self.folder)
            )
        return Delta(a, b, self.config.scale(self.name), lora.get(_MAGNITUDE))

    def _rows(self) -> list[Change]:
        if _ROWS not in self.parts:
            return []
        numbers = _token_indices(self.config.values.get("trainable_token_indices"), self.name)
        values = self.parts[_ROWS]
        if len(numbers) != len(values):
            message = f"{self.name} has {len(values)} trained rows, the settings name {len(numbers)}."
            raise AdapterUnusable(message, where=str(self.folder))
        return [TrainedRows(numbers, values)]

    def _wanted(self) -> set[str]:
        return _PAIR | ({_MAGNITUDE} if self.config.dora else set())

    def _refused(self, found: set[str], wanted: set[str]) -> AdapterUnusable:
        message = f"{self.name} has {', '.join(sorted(found))}; it needs {', '.join(sorted(wanted))}."
        return AdapterUnusable(message, where=str(self.folder))


def _token_indices(setting: Any, module: str) -> list[int]:
    """The rows of a module that were trained. A list is for the embedding, a mapping names the modules."""
    if isinstance(setting, Mapping):
        for name, numbers in setting.items():
            if f".{module}".endswith(f".{name}") or _last(module) == _last(name):
                return list(numbers)
        return []
    return list(setting or [])


def _root(module: str) -> str:
    """What stands before the number of a module's layer; "" for a module outside of layers."""
    match = _LAYER.match(module)
    return match[1] if match else ""


def _last(module: str) -> str:
    return module.rpartition(".")[2]
