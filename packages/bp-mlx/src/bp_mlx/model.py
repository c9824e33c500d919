"""Loading and writing a base model, and its logits at chosen positions."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, load_model

from bp_core.choices import DType, Mode
from bp_core.errors import BadValue, ModelUnusable
from bp_core.model_files import read_json
from bp_core.tensor_file import read_header

from . import config_conversion, device, quantized
from ._errors import is_out_of_memory

_FORMATS = {"float32": mx.float32, "bfloat16": mx.bfloat16}
Arrays = dict[str, mx.array]


@dataclass(frozen=True)
class Base:
    """A model, its layers, and the longest row in tokens (None: any). `selector` picks positions before the head."""

    model: nn.Module
    layers: list[nn.Module]
    longest: int | None
    selector: nn.Module | None


def load_base(folder: Path, dtype: mx.Dtype, mode: Mode) -> Base:
    """The base model, frozen, in `dtype`; linear layers quantised if the mode asks for it. Raises ModelUnusable."""
    config = read_json(folder / "config.json")
    try:
        described = config_conversion.for_mlx(config)
        model, _ = load_model(folder, lazy=True, model_config=described, get_model_classes=_classes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelUnusable(str(error).split("\n")[0], where=str(folder)) from error
    body = _body(model)
    layers = list(body.layers if body else getattr(model, "layers", []))
    _in_format(model, dtype)
    quantized.quantize(layers, mode)
    mx.eval(model.parameters())
    model.freeze()
    if body:
        body.__class__ = type(type(body).__name__, (_PositionSelector, type(body)), {})
    return Base(model.eval(), layers, config_conversion.longest(config), body)


@dataclass(frozen=True)
class Positions:
    """Positions in a grid of tokens, for which logits are computed: int32 [positions] each.

    Not a tuple: a module of MLX would take that for its parameters.
    """

    rows: mx.array
    columns: mx.array

    def of(self, values: mx.array) -> mx.array:
        """`values` [rows, columns, n] at the positions: [positions, n]."""
        return values[self.rows, self.columns]


class _PositionSelector:
    """A model's body that returns only the wanted positions, so that the head computes no others."""

    _wanted: Positions | None = None

    def __call__(self, *args: Any, **options: Any) -> mx.array:
        hidden: mx.array = super().__call__(*args, **options)  # type: ignore[misc]
        return hidden if self._wanted is None else self._wanted.of(hidden)[None]


def logits(base: Base, tokens: mx.array, places: Positions, cache: Any = None) -> mx.array:
    """Logits [positions, vocabulary] at positions of `tokens` [rows, columns]. Raises BadValue for long rows."""
    check_length(base, tokens.shape[1])
    if base.selector is None:
        return places.of(base.model(tokens, cache=cache))
    base.selector._wanted = places
    try:
        return base.model(tokens, cache=cache)[0]
    finally:
        base.selector._wanted = None


def check_length(base: Base, length: int) -> None:
    """Raise BadValue for rows longer than mlx-lm computes exactly."""
    if base.longest and length > base.longest:
        raise BadValue(
            f"rows of {length} tokens: mlx-lm computes this model as it was trained only up to {base.longest}.",
            fix=f"Use --max-length {base.longest} or less, or another --backend.",
        )


def write(base: Base, folder: Path, source: Path) -> None:
    """Write a model in Hugging Face's layout, in the number format of training; `source` is its base's folder."""
    weights = dict(tree_flatten(base.model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    for name in ("config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    config = read_json(folder / "config.json")
    config["dtype"] = format_of(base)
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def check_names(base: Base, folder: Path) -> None:
    """Raise BadValue for a model that mlx-lm keeps otherwise than its files: it could not be written back."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        shapes |= {name: tensor.shape for name, tensor in read_header(path).tensors.items()}
    if any(shapes.get(name) != tuple(value.shape) for name, value in tree_flatten(base.model.parameters())):
        raise BadValue(
            "mode full: mlx-lm keeps the weights of this kind of model otherwise than its files do.",
            fix="Use --mode lora.",
        )


def format_of(base: Base) -> str:
    """The number format of the weights."""
    return str(tree_flatten(base.model.parameters())[0][1].dtype).removeprefix("mlx.core.")


def number_format(wanted: DType) -> mx.Dtype:
    """The number format of weights and matrix products; for auto bfloat16 on Apple GPUs, float32 elsewhere."""
    if wanted != "auto":
        return _FORMATS[wanted]
    return mx.bfloat16 if device.on_metal() else mx.float32


def _classes(config: dict[str, Any]) -> tuple[type[nn.Module], type]:
    """mlx-lm's classes for a model, with norms read as float32, because mlx-lm may add 1 to them."""
    kind, settings = _get_classes(config)

    class Exact(kind):  # type: ignore[misc, valid-type]
        def sanitize(self, weights: Arrays) -> Arrays:
            small = {name: value.astype(mx.float32) for name, value in weights.items() if _is_norm(value)}
            result: Arrays = kind.sanitize(self, weights | small) if hasattr(kind, "sanitize") else weights
            return result

    Exact.__name__ = kind.__name__
    return Exact, settings


def _is_norm(value: mx.array) -> bool:
    return value.ndim == 1 and mx.issubdtype(value.dtype, mx.floating)


def _in_format(model: nn.Module, dtype: mx.Dtype) -> None:
    """Cast the weights, but for those that mlx-lm keeps in full precision, such as the decay of linear attention."""
    castable = getattr(model, "cast_predicate", lambda name: True)
    weights = []
    for name, value in tree_flatten(model.parameters()):
        if mx.issubdtype(value.dtype, mx.floating) and castable(name):
            weights.append((name, value.astype(dtype)))
    model.load_weights(weights, strict=False)


def _body(model: nn.Module) -> nn.Module | None:
    """The part of the model before the head; None if it is not separate."""
    found = (module for _, module in model.named_modules() if "embed_tokens" in module and "layers" in module)
    return next((module for module in found if module is not model), None)
