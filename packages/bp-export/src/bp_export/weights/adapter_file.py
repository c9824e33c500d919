"""The settings and tensors of an adapter's folder, whichever program wrote it, as PEFT names them.

PEFT (also by TRL, Unsloth, LLaMA-Factory, Axolotl) writes adapter_model.safetensors or adapter_model.bin, mlx-lm
adapters.safetensors with factors that are transposed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bp_core import folders
from bp_core.adapter_config import CONFIG, PREFIX, WEIGHTS, AdapterConfig
from bp_core.adapter_keys import canonical
from bp_core.errors import AdapterUnusable, FileUnreadable, ModelUnusable
from bp_core.model_files import read_json

from . import torch_file
from .safetensors_file import Weights

PICKLED = "adapter_model.bin"
MLX_WEIGHTS = "adapters.safetensors"
_MLX_SETTINGS = "lora_parameters"
_MLX_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
_MLX_KEY = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b|m)")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class AdapterFile:
    """An adapter: PEFT's settings, and its tensors by canonical name, each read when it is asked for.

    `native`: the folder is in PEFT's own layout, so that PEFT reads it as it is.
    """

    folder: Path
    file: Path
    values: Mapping[str, Any]
    native: bool
    _read: Mapping[str, Callable[[], np.ndarray]]
    _shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def open(cls, folder: Path, settings: Mapping[str, Any] | None = None) -> AdapterFile:
        """`settings` are those of the folder, if they have been read already. Raises AdapterUnusable.

        Whether the files are as they were written is left to `check_folder`.
        """
        _check_names(folder)
        values = _settings(folder) if settings is None else settings
        if _MLX_SETTINGS in values:
            return _from_mlx(folder, values)
        if (folder / WEIGHTS).is_file():
            return _of(folder, values, _weights(folder / WEIGHTS))
        return _of(folder, values, torch_file.read_torch_file(folder / PICKLED))

    def names(self) -> Iterable[str]:
        return self._read.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.array(name).dtype

    def array(self, name: str) -> np.ndarray:
        return self._read[name]()

    def config(self, computed: Iterable[str] = ()) -> AdapterConfig:
        """The settings. Raises AdapterUnusable for those that are not among `computed`, as AdapterConfig.read."""
        return AdapterConfig.of_file(self.values, self.folder / CONFIG, tuple(computed))


def check_folder(folder: Path) -> None:
    """Raise AdapterUnusable unless an adapter's files are here, and as they were written."""
    _check_names(folder)
    if (folder / folders.MANIFEST).is_file() and (problem := folders.damage(folder)):
        raise AdapterUnusable(f"the folder is damaged: {problem}.", where=str(folder))


def _check_names(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise AdapterUnusable(f"{CONFIG} is missing.", where=str(folder), fix=checkpoint_fix(folder))
    if not any((folder / name).is_file() for name in (WEIGHTS, PICKLED, MLX_WEIGHTS)):
        raise AdapterUnusable(f"{WEIGHTS} is missing.", where=str(folder), fix=checkpoint_fix(folder))


def checkpoint_fix(folder: Path) -> str | None:
    """What to name instead of a folder that holds only a trainer's checkpoints; None where there are none."""
    found = {}
    for path in folder.glob(f"checkpoint-*/{CONFIG}"):
        if match := _CHECKPOINT.fullmatch(path.parent.name):
            found[int(match[1])] = path.parent
    if not found:
        return None
    return f"Name its newest checkpoint instead: {shlex.quote(str(found[max(found)]))}"


def base_name(values: Mapping[str, Any]) -> str | None:
    """What an adapter's settings call its base; mlx-lm writes it under another name."""
    name = values.get("base_model_name_or_path") or (values.get("model") if _MLX_SETTINGS in values else None)
    return str(name) if name else None


def _transposed(weights: Weights, name: str) -> np.ndarray:
    return weights.array(name).T


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / CONFIG)
    except (ModelUnusable, FileUnreadable) as error:
        raise AdapterUnusable(f"the settings cannot be read ({error.message})", where=str(folder / CONFIG)) from error


def _weights(file: Path) -> Weights:
    try:
        return Weights(file)
    except ModelUnusable as error:
        raise AdapterUnusable(
            error.message, where=str(file), fix=error.fix if "LFS" in error.message else None
        ) from error


def _of(folder: Path, values: Mapping[str, Any], source: Weights | Mapping[str, np.ndarray]) -> AdapterFile:
    """From PEFT's layout."""
    pickled = not isinstance(source, Weights)
    read: dict[str, Callable[[], np.ndarray]] = {}
    for key in source.names() if isinstance(source, Weights) else source:
        reader = partial(source.array if isinstance(source, Weights) else source.__getitem__, key)
        name = canonical(key)
        # PEFT saves a resized embedding that was trained whole under two names
        if name in read and not np.array_equal(read[name](), reader()):
            raise AdapterUnusable(f"the tensor {name} is there twice, once as {key}.", where=str(folder))
        read[name] = reader
    stored = source.names() if isinstance(source, Weights) else source
    native = not pickled and all(canonical(key) == key for key in stored)
    shapes = {name: reader().shape for name, reader in read.items()}
    return AdapterFile(folder, folder / (PICKLED if pickled else WEIGHTS), values, native, read, shapes)


def _from_mlx(folder: Path, values: Mapping[str, Any]) -> AdapterFile:
    """From mlx-lm's layout: its factors are [in, rank] and [rank, out], and its scale is that of the product."""
    kind = values.get("fine_tune_type", "lora")
    settings = values[_MLX_SETTINGS]
    if kind not in ("lora", "dora"):
        message = f"mlx-lm trained it with fine_tune_type {kind!r}; only lora and dora are adapters."
        raise AdapterUnusable(message, where=str(folder / CONFIG), fix="Fuse it: mlx_lm.fuse --model BASE")
    weights = _weights(folder / MLX_WEIGHTS)
    read: dict[str, Callable[[], np.ndarray]] = {}
    shapes = {}
    modules = set()
    for key in weights.names():
        match = _MLX_KEY.fullmatch(key)
        if not match:
            raise AdapterUnusable(f"the tensor {key} is not part of mlx-lm's adapter.", where=str(folder))
        name = f"{PREFIX}{match['module']}.{_MLX_PARTS[match['part']]}"
        modules.add(match["module"])
        read[name] = partial(_transposed, weights, key)
        shapes[name] = weights.shape(key)[::-1]
    try:
        rank, scale = int(settings["rank"]), float(settings["scale"])
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterUnusable(f"the settings cannot be read ({error}).", where=str(folder / CONFIG)) from error
    as_peft = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank * scale,
        "use_dora": kind == "dora",
        "target_modules": sorted(modules),
        "base_model_name_or_path": base_name(values),
    }
    return AdapterFile(folder, folder / MLX_WEIGHTS, as_peft, False, read, shapes)
