"""Base model + adapter → merged weights, computed in float32, one tensor at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
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


class MergedWeights:
    """A base model with an adapter merged in. Changed weights are float32, the others as stored."""

    def __init__(self, base: Path, changes: Mapping[str, lora.Change]) -> None:
        config = read_json(base / "config.json")
        self._base = open_base(base, config)
        self._names = list(self._base.names())
        stored = {text_name(name): name for name in self._names}
        # the adapter may have been trained on the text part of a vision-language model
        self._changes = {stored.get(text_name(name), name): change for name, change in changes.items()}
        tied = bool(config.get("tie_word_embeddings"))
        for name, change in self._changes.items():
            self._check(name, change, tied=tied)

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base.shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        """The base's number format, in which merged weights are written."""
        return self._base.dtype(name)

    def changes(self, name: str) -> bool:
        """Whether the adapter changes this weight."""
        return name in self._changes

    def before(self, name: str) -> np.ndarray:
        """The base's weight."""
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
    return MergedWeights(base, lora.read(adapter)) if adapter else open_base(base)


def write_merged(adapter: Path, base: Path, target: Path, notify: Notify | None = None) -> None:
    """Write a complete Hugging Face folder to `target`, which must not exist. Small files are copied from the base."""
    source = MergedWeights(base, lora.read(adapter))
    contract = Contract.read(adapter)
    require_free(target)
    require_space(target, sum(safetensors_file.size(source, name) for name in source.names()))
    with folders.new_folder(target) as draft:
        for done, _ in enumerate(_write_shards(source, draft), 1):
            if notify:
                notify(Progress("merge", done, len(source.names())))
        for name in _COPIED:
            if (base / name).is_file():
                shutil.copyfile(base / name, draft / name)
        _drop_quantization_settings(draft)
        if contract:
            _keep_contract(contract, adapter, draft)


def _drop_quantization_settings(folder: Path) -> None:
    """Remove MLX's quantisation settings from config.json: the merged weights are floats."""
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
    files: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        files.update(dict.fromkeys(names, file))
        yield from safetensors_file.write(folder / file, source, names)
    total = sum(safetensors_file.size(source, name) for name in files)
    folders.write_json(folder / safetensors_file.INDEX, {"metadata": {"total_size": total}, "weight_map": files})


def _shards(source: Source) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = SHARD_BYTES
    for name in source.names():
        size = safetensors_file.size(source, name)
        if size > room and shards[-1]:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= size
    return shards
