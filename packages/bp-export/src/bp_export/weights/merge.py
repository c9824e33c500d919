"""Base model + adapter → merged weights, computed in float32, one tensor at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bp_core import folders
from bp_core.contract import CONTRACT_FILE
from bp_core.events import Notify, Progress
from bp_core.model_files import read_json

from .. import model_folder
from ..output_paths import require_free, require_space
from ..trained_tokenizer import TrainedTokenizer, copy_tokenizer, trained_tokenizer
from . import mlx, safetensors_file
from .merged_weights import MergedWeights, merged_weights, open_base, trained_weights
from .safetensors_file import Source
from .tying import SETTING, says_tied

__all__ = ["MergedWeights", "open_base", "trained_weights", "write_merged"]

SHARD_BYTES = 5_000_000_000
_COPIED = ("config.json", "generation_config.json", "LICENSE", "LICENSE.txt")
_ROWS = "vocab_size"


def write_merged(
    adapter: Path,
    base: Path,
    target: Path,
    notify: Notify | None = None,
    *,
    tokenizer: TrainedTokenizer | None = None,
) -> None:
    """Write a complete Hugging Face folder to `target`, which must not exist. Small files are copied from the base.

    `tokenizer` is that of what was trained, if it has been read already.
    """
    source = merged_weights(adapter, base)
    if tokenizer is None:
        tokenizer = trained_tokenizer(adapter, base)
    require_free(target)
    require_space(target, sum(safetensors_file.size(source, name) for name in source.names()))
    with folders.new_folder(target) as draft:
        for done, _ in enumerate(_write_shards(source, draft), 1):
            if notify:
                notify(Progress("merge", done, len(source.names())))
        for name in _COPIED:
            if (base / name).is_file():
                shutil.copyfile(base / name, draft / name)
        _describe_weights(draft, source)
        _complete(draft, adapter, tokenizer)


def _complete(draft: Path, adapter: Path, tokenizer: TrainedTokenizer) -> None:
    """Add tokenizer, contract and ends of a turn."""
    copy_tokenizer(tokenizer.folder, draft)
    if (adapter / CONTRACT_FILE).is_file():
        shutil.copyfile(adapter / CONTRACT_FILE, draft / CONTRACT_FILE)
    if tokenizer.contract:
        model_folder.complete(draft, tokenizer.contract)


def _describe_weights(folder: Path, source: MergedWeights) -> None:
    """Let config.json say what the merged weights are: floats, with this vocabulary, tied or not."""
    path = folder / "config.json"
    config = read_json(path)
    changed = dict(config)
    if mlx.is_quantized(config):
        changed = {name: value for name, value in config.items() if name not in mlx.SETTINGS}
    if says_tied(config) and not source.tied:
        _set(changed, SETTING, False)
    if source.resized:
        _set(changed, _ROWS, source.vocabulary_size)
    if changed != config:
        folders.write_json(path, changed)


def _set(config: dict[str, Any], name: str, value: Any) -> None:
    """Set a value of the text model, and of the whole where that has it, too."""
    text = config.get("text_config")
    if text is None or name in config or name == SETTING:
        config[name] = value
    if text is not None:
        config["text_config"] = {**text, name: value}


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
