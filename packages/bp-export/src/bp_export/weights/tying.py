"""Whether a model uses its embedding as its head, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bp_core.adapter_keys import text_name

from .safetensors_file import Source

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SETTING = "tie_word_embeddings"
# Classes of transformers whose configurations tie where config.json does not say; the other known ones do not.
_TIED_BY_DEFAULT = ("gemma", "smollm3")
_ROWS = 4096  # compared at once


def is_tied(config: Mapping[str, Any], source: Source) -> bool:
    """As transformers decides: by config.json or the class's default, unless the file has another head.

    `config` is config.json, `source` the model's weights.
    """
    if not says_tied(config):
        return False
    embedding, head = find(source, EMBEDDING), find(source, HEAD)
    return head is None or embedding is None or _equal(source, embedding, head)


def says_tied(config: Mapping[str, Any]) -> bool:
    """What config.json says, or the class's default."""
    text = config.get("text_config") or {}
    for settings in (config, text):
        if SETTING in settings:
            return bool(settings[SETTING])
    kind = str(text.get("model_type") or config.get("model_type") or "")
    return kind.startswith(_TIED_BY_DEFAULT)


def find(source: Source, wanted: str) -> str | None:
    """The name in `source` of a tensor that is called so in the text model alone."""
    return next((name for name in source.names() if text_name(name) == wanted), None)


def head_beside(embedding: str) -> str:
    """What the head is called in a model with an embedding of this name."""
    before = embedding.removesuffix(EMBEDDING)
    return before + HEAD if before.endswith(".") and not before.startswith("model.") else HEAD


def _equal(source: Source, first: str, second: str) -> bool:
    if source.shape(first) != source.shape(second):
        return False
    one, other = source.array(first), source.array(second)
    starts = range(0, len(one), _ROWS)
    return all(np.array_equal(one[start : start + _ROWS], other[start : start + _ROWS]) for start in starts)
