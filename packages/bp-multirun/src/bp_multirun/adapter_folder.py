"""Reading and writing a LoRA adapter in PEFT's layout, without PEFT.

Adapters that cannot be merged by their two factors alone are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bp_core.adapter_config import CONFIG, PREFIX, WEIGHTS, AdapterConfig
from bp_core.errors import AdapterUnusable, MergeRefused
from bp_core.tensor_file import TensorFileBroken

from .factors import Factors, Pair, check
from .tensor_file import read, write

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_COMPUTED = ("rank_pattern", "alpha_pattern", "fan_in_fan_out")  # factors are merged alike, transposed or not


@dataclass(frozen=True, eq=False)
class Adapter:
    """Settings as PEFT stores them, float32 factors, and the type in which they are stored."""

    config: AdapterConfig
    factors: Factors
    dtype: str  # float32, float16 or bfloat16


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder; float32 factors are views into its file. Raises AdapterUnusable."""
    config = AdapterConfig.read(folder, _COMPUTED)
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
    for name, pair in factors.items():
        if pair.rank != config.rank_of(name):
            message = f"{name} has rank {pair.rank}, the settings say {config.rank_of(name)}."
            raise AdapterUnusable(message, where=str(path))
    stored = set(file.dtypes.values())
    dtype = next((name for name, code in _DTYPES.items() if stored == {code}), "float32")
    return Adapter(config, factors, dtype)


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write both files into an existing folder; the same adapter gives the same bytes.

    Raises MergeRefused if a value is too large for the adapter's type.
    """
    arrays = {
        f"{PREFIX}{name}.lora_{factor}.weight": array
        for name, pair in adapter.factors.items()
        for factor, array in (("A", pair.a), ("B", pair.b))
    }
    text = json.dumps(dict(adapter.config.values), indent=2)
    (folder / CONFIG).write_text(text, encoding="utf-8", newline="\n")
    try:
        write(folder / WEIGHTS, arrays, _DTYPES[adapter.dtype], {"format": "pt"})
    except OverflowError as error:
        raise MergeRefused(f"{error}.", where=str(folder / WEIGHTS)) from error


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
