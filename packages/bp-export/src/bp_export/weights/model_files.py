"""What several steps of an export ask of a Hugging Face model folder, and the names of its tensors."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from bp_core.model_files import DEFAULT, TokenizerConfig

_SOURCES = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def chat_template(folder: Path) -> str:
    """The folder's chat template as transformers would choose it; "" if there is none."""
    return _tokenizer_config(folder, stamp(folder, *_SOURCES)).templates.get(DEFAULT, "")


def special_token(folder: Path, name: str) -> str | None:
    """The text of a special token such as "eos_token"; None if the tokenizer has none."""
    return _tokenizer_config(folder, stamp(folder, *_SOURCES)).special.get(name)


def stamp(folder: Path, *names: str) -> tuple[tuple[int, int] | None, ...]:
    """What changes when one of these files does, so that none needs to be read twice."""
    files = [folder / name for name in names]
    return tuple((path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None for path in files)


@functools.lru_cache(maxsize=2)
def _tokenizer_config(folder: Path, stamp: object) -> TokenizerConfig:
    return TokenizerConfig.read(folder, optional=True)


_WRAPPED = re.compile(r"language_model\.")  # a text model inside one that also sees


def text_name(name: str) -> str:
    """A tensor's name as a text model alone would call it."""
    return _WRAPPED.sub("", name, count=1)
