"""Dequantise weights that MLX quantised: code × scale + bias, in groups along a row.

Layout: https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bp_core.errors import ModelUnusable
from bp_core.model_files import read_json

from .safetensors_file import Weights

SETTINGS = ("quantization", "quantization_config")  # mlx-lm writes both into config.json, alike
_WHOLE = (2, 4, 8)  # bit widths that divide a 32-bit word
_FIX = "Export onto its 16-bit source: --base with the model that it was quantised from."


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Whether a config.json belongs to weights that MLX quantised."""
    settings = config.get(SETTINGS[0])
    return isinstance(settings, Mapping) and "group_size" in settings


class MlxWeights:
    """The weights of a quantised model folder, dequantised. Raises ModelUnusable for formats that are not read."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._stored = Weights(folder)
        self._settings = config[SETTINGS[0]]
        stored = set(self._stored.names())
        self._packed = {name for name in stored if name.endswith(".weight") and _beside(name, "scales") in stored}
        for name in stored:
            self._check(name, folder)

    def names(self) -> list[str]:
        extra = {_beside(name, part) for name in self._packed for part in ("scales", "biases")}
        return [name for name in self._stored.names() if name not in extra]

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._packed:
            return self._stored.shape(name)
        rows, groups = self._stored.shape(_beside(name, "scales"))
        return rows, groups * self._group(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._stored.dtype(_beside(name, "scales") if name in self._packed else name)

    def array(self, name: str) -> np.ndarray:
        """The weight in its shape; float32 if it was quantised."""
        if name not in self._packed:
            return self._stored.array(name)
        rows, columns = self.shape(name)
        words, bits = self._stored.array(name), self._bits(name)
        shifts = np.arange(0, 32, bits, dtype=np.uint32)
        codes = (words[:, :, None] >> shifts & np.uint32((1 << bits) - 1)).reshape(rows, -1, self._group(name))
        scales, offsets = (self._stored.array(_beside(name, part)).astype(np.float32) for part in ("scales", "biases"))
        return (codes * scales[:, :, None] + offsets[:, :, None]).reshape(rows, columns)

    def _check(self, name: str, folder: Path) -> None:
        mode = self._of(name).get("mode", "affine")
        if name in self._packed and (mode != "affine" or self._bits(name) not in _WHOLE):
            kind = f"{self._bits(name)}-bit {mode}"
            raise ModelUnusable(f"{name} is {kind}, which cannot be read.", where=str(folder), fix=_FIX)
        if "conv1d" in name:  # mlx-lm transposes these, and adds 1 to the norms
            raise ModelUnusable(
                "MLX stores this kind of model differently from its source.", where=str(folder), fix=_FIX
            )

    def _of(self, name: str) -> Mapping[str, Any]:
        """The quantisation settings of a layer: its own, or the model's."""
        own = self._settings.get(name.removesuffix(".weight"))
        return own if isinstance(own, Mapping) else self._settings

    def _group(self, name: str) -> int:
        return int(self._of(name)["group_size"])

    def _bits(self, name: str) -> int:
        return self._stored.shape(name)[1] * 32 // self.shape(name)[1]


def comes_from(quantized: Path, source: Path) -> bool:
    """Whether `source` has the original weights: equal shapes, and one layer equal within quantisation error."""
    mine, theirs = MlxWeights(quantized, read_json(quantized / "config.json")), Weights(source)
    names = mine.names()
    if not set(names) <= set(theirs.names()) or any(mine.shape(name) != theirs.shape(name) for name in names):
        return False
    layer = next(name for name in sorted(names) if ".layers." in name and name in mine._packed)
    scales = np.abs(mine._stored.array(_beside(layer, "scales")).astype(np.float32))
    allowed = np.repeat(scales, mine._group(layer), axis=1)
    return bool((np.abs(mine.array(layer) - theirs.array(layer).astype(np.float32)) <= allowed).mean() > 0.99)


def _beside(name: str, part: str) -> str:
    return f"{name.removesuffix('.weight')}.{part}"
