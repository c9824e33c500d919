"""The metadata of a GGUF file that is needed to run it."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bp_core.errors import BadValue, FileMissing, GgufUnusable

from .reader import GgufFile


@dataclass(frozen=True)
class GgufFacts:
    """The metadata of a GGUF model. `bos` and `eos` are token ids, `bos_token` and `eos_token` their texts.

    `types` counts tensors by number format. A context of up to `exact_context` tokens computes what was trained: with
    longrope (Phi-4) and a longer context, llama.cpp uses the factors of long texts for short ones too.
    """

    name: str
    architecture: str
    parameters: int
    context_length: int
    template: str
    bos: int | None
    bos_token: str
    eos: int | None
    eos_token: str
    add_bos: bool
    types: Mapping[str, int]
    exact_context: int


def gguf_facts(path: Path) -> GgufFacts:
    """Read the metadata of a GGUF file. Raises FileMissing, GgufUnusable."""
    return facts_of(GgufFile(path))


def facts_of(gguf: GgufFile) -> GgufFacts:
    """The metadata of an open GGUF file. Raises GgufUnusable if a required field is missing, or for an adapter."""
    if is_adapter(gguf):
        fix = f"Serve it with the model that it changes: backprop serve BASE.gguf --lora {shlex.quote(str(gguf.path))}"
        raise GgufUnusable("this is a LoRA adapter, not a model.", where=str(gguf.path), fix=fix)
    architecture = gguf.field("general.architecture")
    tokens = gguf.field("tokenizer.ggml.tokens")
    bos, eos = (gguf.fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
    context = gguf.field(f"{architecture}.context_length")
    original = gguf.fields.get(f"{architecture}.rope.scaling.original_context_length", context)
    types = Counter(tensor.type.name for tensor in gguf.tensors.values())
    return GgufFacts(
        name=gguf.fields.get("general.name", gguf.path.stem),
        architecture=architecture,
        parameters=sum(math.prod(tensor.shape) for tensor in gguf.tensors.values()),
        context_length=context,
        template=gguf.fields.get("tokenizer.chat_template", ""),
        bos=bos,
        bos_token=_text(tokens, bos),
        eos=eos,
        eos_token=_text(tokens, eos),
        add_bos=gguf.fields.get("tokenizer.ggml.add_bos_token", False),
        types=dict(types.most_common()),
        exact_context=original if "rope_factors_long.weight" in gguf.tensors else context,
    )


def require_context(wanted: int | None, longest: int, where: Path) -> None:
    """Raise BadValue for a context that is longer than the model computes right."""
    if wanted is not None and wanted > longest:
        message = f"num_ctx is {wanted}, but the model is made for up to {longest} tokens."
        raise BadValue(message, where=str(where), fix=f"Use --num-ctx {longest} or less, or leave it out.")


def is_adapter(gguf: GgufFile) -> bool:
    """Whether a GGUF holds a LoRA adapter, as --format gguf-lora writes it."""
    return gguf.fields.get("general.type") == "adapter"


def is_adapter_file(path: Path) -> bool:
    """As `is_adapter`; a file that cannot be read is none."""
    try:
        return is_adapter(GgufFile(path, alone=True))
    except (FileMissing, GgufUnusable):
        return False


def _text(tokens: list[str], number: int | None) -> str:
    return tokens[number] if number is not None and number < len(tokens) else ""
