"""Base model + adapter → merged weights, one tensor at a time, in float32."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bp_core import folders
from bp_core.contract import CONTRACT_FILE, Contract
from bp_core.errors import AdapterUnusable, ModelUnusable
from bp_core.events import Notify, Progress
from bp_core.model_files import read_json

from ..output_paths import require_free, require_space
from . import adapter as lora
from . import mlx, safetensors_file
from .model_files import chat_template, text_name
from .safetensors_file import Source, Weights

SHARD_BYTES = 5_000_000_000
_FLOATS = [np.dtype(kind) for kind in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)]
_COPIED = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"),
    *("LICENSE", "LICENSE.txt"),
)


class Merged:
    """A base model with an adapter merged in. Touched weights come as float32, the others as they are stored."""

    def __init__(self, base: Path, changes: Mapping[str, lora.Change]) -> None:
        config = read_json(base / "config.json")
        self._base = open_base(base, config)
        self._names = list(self._base.names())
        stored = {text_name(name): name for name in self._names}
        # an adapter may have been trained on the text part of a model that also sees
        self._changes = {stored.get(text_name(name), name): change for name, change in changes.items()}
        tied = bool(config.get("tie_word_embeddings"))
        for name, change in self._changes.items():
            self._check(name, change, tied=tied)

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base.shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        """The base's own number format, in which the merged folder is written."""
        return self._base.dtype(name)

    def changes(self, name: str) -> bool:
        """Whether the adapter changes this weight."""
        return name in self._changes

    def before(self, name: str) -> np.ndarray:
        """The weight as the base has it."""
        return self._base.array(name)

    def array(self, name: str) -> np.ndarray:
        weight = self._base.array(name)
        return self._changes[name].applied(weight) if name in self._changes else weight

    def _check(self, name: str, change: lora.Change, *, tied: bool) -> None:
        if name not in self._names:
            raise AdapterUnusable(f"it changes {name}, which the base model does not have.")
        if self.shape(name) != change.shape:
            raise AdapterUnusable(f"{name} is {change.shape} in the adapter and {self.shape(name)} in the base model.")
        if tied and text_name(name) in ("lm_head.weight", "model.embed_tokens.weight"):
            raise AdapterUnusable(f"it changes {name}, which the base model uses twice (tied embeddings).")


def open_base(base: Path, config: Mapping[str, Any] | None = None) -> Source:
    """The weights of a base model folder, unpacked if MLX quantised them. `config`: its config.json, if it was read.

    Raises ModelUnusable if they are missing, broken or quantised by others.
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
    return Merged(base, lora.read(adapter)) if adapter else open_base(base)


def write_merged(adapter: Path, base: Path, target: Path, notify: Notify | None = None) -> None:
    """Write a complete Hugging Face folder to `target`, which must be free. The base's small files stay as they are."""
    source = Merged(base, lora.read(adapter))
    contract = Contract.read(adapter)
    require_free(target)
    require_space(target, sum(safetensors_file.size(source, name) for name in source.names()))
    with folders.new_folder(target) as draft:
        names = source.names()
        for done, _ in enumerate(_write_shards(source, draft), 1):
            if notify:
                notify(Progress("merge", done, len(names)))
        for name in _COPIED:
            if (base / name).is_file():
                shutil.copyfile(base / name, draft / name)
        _say_as_written(draft)
        if contract:
            _keep_contract(contract, adapter, draft)


def _say_as_written(folder: Path) -> None:
    """The weights are floats now, whatever the base's were."""
    config = read_json(folder / "config.json", optional=True)
    if mlx.is_quantized(config):
        kept = {name: value for name, value in config.items() if name not in mlx.SETTINGS}
        folders.write_json(folder / "config.json", kept)


def _keep_contract(contract: Contract, adapter: Path, draft: Path) -> None:
    shutil.copyfile(adapter / CONTRACT_FILE, draft / CONTRACT_FILE)
    if contract.template and chat_template(draft) != contract.template:
        # transformers prefers this file over the template in tokenizer_config.json
        (draft / "chat_template.jinja").write_bytes(contract.template.encode())


def _write_shards(source: Source, folder: Path) -> Iterator[str]:
    shards = _shards(source)
    if len(shards) == 1:
        yield from safetensors_file.write(folder / safetensors_file.SINGLE, source, shards[0])
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        places.update(dict.fromkeys(names, file))
        yield from safetensors_file.write(folder / file, source, names)
    total = sum(safetensors_file.size(source, name) for name in places)
    folders.write_json(folder / safetensors_file.INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _shards(source: Source) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = SHARD_BYTES
    for name, size in _sizes(source, source.names()):
        if size > room and shards[-1]:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= size
    return shards


def _sizes(source: Source, names: Iterable[str]) -> list[tuple[str, int]]:
    return [(name, safetensors_file.size(source, name)) for name in names]
