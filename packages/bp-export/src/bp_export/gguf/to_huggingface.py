"""GGUF → an ordinary Hugging Face folder, so that a model shipped as GGUF can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bp_core import folders
from bp_core.events import Notify, Progress

from ..output_paths import require_free, require_space
from ..weights import safetensors_file
from .reader import GgufFile
from .unpacked_config import unpacked_config
from .unpacked_tensors import UnpackedTensors, dequantized_types
from .unpacked_tokenizer import adds_bos, unpacked_tokenizer

SOURCE = "unpacked.json"  # beside the weights: which file they are of, and whether they were quantised there
_SPECIAL = (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
_ENDS = ("eos", "eot", "eom")  # tokens that end a turn


def unpack_gguf(source: Path, folder: Path, notify: Notify | None = None) -> None:
    """Write `folder` (which must be free) from a GGUF of any family that is exported, quantised or not.

    Floats are kept exactly; what was quantised is dequantised to float16, and unpacked.json names its formats.
    Raises FileMissing, GgufUnusable, UnsupportedArchitecture, DiskFull, OutputUnusable.
    """
    gguf = GgufFile(source)
    config = unpacked_config(gguf)
    require_free(folder)
    tensors = UnpackedTensors(gguf, config)
    tokenizer = unpacked_tokenizer(gguf)
    require_space(folder, sum(safetensors_file.size(tensors, name) for name in tensors.names()))
    documents = {
        "config.json": config | _special_ids(gguf) | {"dtype": tensors.usual_dtype.name},
        "generation_config.json": _generation(gguf),
        "tokenizer_config.json": _tokenizer_config(gguf, config),
        SOURCE: {"file": source.name, "dequantized_from": dequantized_types(gguf)},
    }
    with folders.new_folder(folder) as draft:
        for name, document in documents.items():
            folders.write_json(draft / name, document)
        tokenizer.save(str(draft / "tokenizer.json"), pretty=False)
        written = safetensors_file.write(draft / safetensors_file.SINGLE, tensors, tensors.names())
        for done, _ in enumerate(written, 1):
            if notify:
                notify(Progress("unpack", done, len(gguf.tensors)))


def _ids(gguf: GgufFile) -> dict[str, int]:
    """The ids of special tokens by Hugging Face's names."""
    written = {key: gguf.fields.get(f"tokenizer.ggml.{name}_token_id") for key, name in _SPECIAL}
    return {key: number for key, number in written.items() if number is not None}


def _special_ids(gguf: GgufFile) -> dict[str, int | None]:
    """For config.json. A class's own padding token may lie outside a small vocabulary, so none is said to be none."""
    ids = _ids(gguf)
    return {f"{key}_token_id": ids.get(key) for key in ("bos", "eos", "pad")}


def _generation(gguf: GgufFile) -> dict[str, Any]:
    """For generation_config.json: every token that ends a turn stops the model."""
    ids: dict[str, Any] = {f"{key}_token_id": number for key, number in _ids(gguf).items() if key != "unk"}
    ends = [gguf.fields.get(f"tokenizer.ggml.{name}_token_id") for name in _ENDS]
    known = list(dict.fromkeys(end for end in ends if end is not None))
    if len(known) > 1:
        ids["eos_token_id"] = known
    return ids


def _tokenizer_config(gguf: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    tokens = gguf.field("tokenizer.ggml.tokens")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{key}_token": tokens[number] for key, number in _ids(gguf).items()},
        "add_bos_token": adds_bos(gguf),
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    if template := gguf.fields.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    return settings
