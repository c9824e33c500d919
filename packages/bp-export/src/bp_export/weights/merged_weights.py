"""A base model with an adapter merged in: the merged weights are computed in float32 when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bp_core.adapter_keys import is_beside_text, text_name
from bp_core.errors import AdapterUnusable, ModelUnusable
from bp_core.model_files import read_json

from . import adapter as lora
from . import mlx
from .adapter_file import AdapterFile
from .changes import Change, Replacement, SavedBase, TrainedRows, chained, parts_of
from .safetensors_file import Source, Weights
from .tying import EMBEDDING, HEAD, find, head_beside, is_tied

_FLOATS = [np.dtype(kind) for kind in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)]


class MergedWeights:
    """A base model with an adapter merged in. Changed weights are float32, the others as stored.

    `tied`: the head is the embedding. An adapter that changes one of the two only, or the two differently, ends that:
    the head is then a weight of its own. `tied_training`: both were trained as one weight.
    """

    def __init__(
        self,
        base: Path,
        changes: Mapping[str, Change],
        *,
        tied_training: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """`config` is the base's config.json, if it has been read already."""
        if config is None:
            config = read_json(base / "config.json")
        self._base = open_base(base, config)
        self._names = list(self._base.names())
        stored = {text_name(name): name for name in self._names}
        # the adapter may have been trained on the text part of a vision-language model
        self._changes = {}
        for name, change in changes.items():
            self._changes[stored.get(text_name(name), text_name(name))] = change
        self.tied = is_tied(config, self._base)
        self._borrowed: dict[str, str] = {}  # names that only the merged model has: the base's name of their weight
        if self.tied and EMBEDDING in stored:
            self._judge_tied(stored[EMBEDDING], stored.get(HEAD), tied_training)
        for name, change in self._changes.items():
            self._check(name, change)
        self._check_vocabulary()

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        changed = self._changes[name].shape if name in self._changes else None
        return changed or self._base.shape(self._stored(name))

    def dtype(self, name: str) -> np.dtype[Any]:
        """The base's number format, in which merged weights are written."""
        return self._base.dtype(self._stored(name))

    def changes(self, name: str) -> bool:
        """Whether the adapter changes this weight."""
        return name in self._changes

    def before(self, name: str) -> np.ndarray:
        """The base's weight."""
        return self._base.array(self._stored(name))

    def array(self, name: str) -> np.ndarray:
        weight = self.before(name)
        return self._changes[name].applied(weight) if name in self._changes else weight

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding, also after it was resized."""
        return self.shape(find(self, EMBEDDING) or EMBEDDING)[0]

    @property
    def resized(self) -> bool:
        """Whether training gave the vocabulary other rows than the base has."""
        embedding = find(self, EMBEDDING)
        return embedding is not None and self.shape(embedding)[0] != self.before(embedding).shape[0]

    def _stored(self, name: str) -> str:
        return self._borrowed.get(name, name)

    def _judge_tied(self, embedding: str, stored_head: str | None, tied_training: bool) -> None:
        """Decide whether the head of a tied base is still the embedding, and what changes each of the two."""
        of_embedding = parts_of(self._changes.get(embedding))
        of_head = parts_of(self._changes.pop(stored_head or HEAD, None))
        saved = [part for part in (*of_embedding, *of_head) if isinstance(part, SavedBase)][:1]
        rows = [part for part in (*of_embedding, *of_head) if isinstance(part, TrainedRows)][:1]
        own = [part for part in of_embedding if not isinstance(part, SavedBase | TrainedRows)]
        heads_own = [part for part in of_head if not isinstance(part, SavedBase | TrainedRows)]
        if tied_training:
            own = own or heads_own
            heads_own = own
        self._set(embedding, [*saved, *own, *rows])
        self.tied = _same(own, heads_own)
        if self.tied and stored_head is None:
            return
        head = stored_head or head_beside(embedding)
        if stored_head is None:
            self._names.append(head)
            self._borrowed[head] = embedding
        self._set(head, [*saved, *(own if self.tied else heads_own), *rows])

    def _set(self, name: str, parts: list[Change]) -> None:
        self._changes.pop(name, None)
        if change := chained(parts):
            self._changes[name] = change

    def _check(self, name: str, change: Change) -> None:
        if name not in self._names:
            raise AdapterUnusable(f"it changes {name}, which the base model does not have.")
        own = self._base.shape(self._stored(name))
        resizable = text_name(name) in (EMBEDDING, HEAD) and is_whole(change)
        shapes = {part.shape for part in parts_of(change) if part.shape is not None}
        for shape in shapes:
            fits = shape[1:] == own[1:] and len(shapes) == 1 if resizable else shape == own
            if not fits:
                raise AdapterUnusable(f"{name} is {shape} in the adapter and {own} in the base model.")

    def _check_vocabulary(self) -> None:
        """Embedding and head must have as many rows, also where training resized the vocabulary."""
        embedding, head = find(self, EMBEDDING), find(self, HEAD)
        if embedding is None or head is None or self.shape(embedding)[0] == self.shape(head)[0]:
            return
        raise AdapterUnusable(
            f"its vocabulary was resized, but only one of two weights was saved: {embedding} has "
            f"{self.shape(embedding)[0]} rows, {head} has {self.shape(head)[0]}.",
            fix="Save the adapter again with model.save_pretrained(FOLDER, save_embedding_layers=True).",
        )


def open_base(base: Path, config: Mapping[str, Any] | None = None) -> Source:
    """The weights of a base model folder, dequantised if MLX quantised them.

    `config` is its config.json, if it has been read already. Raises ModelUnusable for weights that are missing, broken
    or quantised in another way.
    """
    if config is None:
        config = read_json(base / "config.json", optional=True)
    source: Source = mlx.MlxWeights(base, config) if mlx.is_quantized(config) else Weights(base)
    for name in source.names():
        if source.dtype(name) not in _FLOATS:
            raise ModelUnusable(
                f"{name} is stored as {source.dtype(name)}; merging needs float weights.",
                where=str(base),
                fix="Use the model's original weights in float32, float16 or bfloat16.",
            )
    return source


def trained_weights(adapter: Path | None, base: Path) -> Source:
    """An adapter merged into its base; without one, the weights of `base`."""
    return merged_weights(adapter, base) if adapter else open_base(base)


def merged_weights(adapter: Path, base: Path) -> MergedWeights:
    """An adapter merged into its base. Raises AdapterUnusable, also for one with missing tensors; ModelUnusable."""
    lora.check_folder(adapter)
    file, config = AdapterFile.open(adapter), read_json(base / "config.json")
    lora.check_complete(file, _modules(base, config))
    tied_training = bool(file.values.get("ensure_weight_tying"))
    return MergedWeights(base, lora.changes_in(file), tied_training=tied_training, config=config)


def require_whole_adapter(adapter: AdapterFile, base: Path) -> None:
    """Raise AdapterUnusable unless the adapter has tensors for each module that its settings name. Reads names only."""
    config = read_json(base / "config.json", optional=True)
    lora.check_complete(adapter, _modules(base, config))


def _modules(base: Path, config: Mapping[str, Any]) -> list[str]:
    """The modules of a base's text model that have a matrix."""
    source: Source = mlx.MlxWeights(base, config) if mlx.is_quantized(config) else Weights(base)
    suffix = ".weight"
    matrices = [name for name in source.names() if name.endswith(suffix) and len(source.shape(name)) == 2]
    return [name.removesuffix(suffix) for name in matrices if not is_beside_text(name)]


def is_whole(change: Change) -> bool:
    """Whether it brings a weight of its own, which may have other rows than the base's."""
    return any(isinstance(part, Replacement) for part in parts_of(change))


def _same(first: list[Change], second: list[Change]) -> bool:
    """Whether two lists of changes are the same ones, or replace a weight by the same values."""
    if len(first) != len(second):
        return False
    for one, other in zip(first, second, strict=True):
        if one is other:
            continue
        if not isinstance(one, Replacement) or not isinstance(other, Replacement):
            return False
        if not np.array_equal(one.weight, other.weight):
            return False
    return True
