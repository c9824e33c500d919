"""Chat template and special tokens of a Hugging Face model folder."""

from __future__ import annotations

import functools
from pathlib import Path

from bp_core.model_files import DEFAULT, TokenizerConfig

_SOURCES = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def chat_template(folder: Path) -> str:
    """The folder's chat template as transformers would choose it; "" if there is none."""
    return _tokenizer_config(folder, _stamp(folder)).templates.get(DEFAULT, "")


def special_token(folder: Path, name: str) -> str | None:
    """The text of a special token such as "eos_token"; None if the tokenizer has none."""
    return _tokenizer_config(folder, _stamp(folder)).special.get(name)


def _stamp(folder: Path) -> tuple[tuple[int, int] | None, ...]:
    """Time and size of the files, so that they are read again only after a change."""
    files = [folder / name for name in _SOURCES]
    return tuple((path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None for path in files)


@functools.lru_cache(maxsize=2)
def _tokenizer_config(folder: Path, stamp: object) -> TokenizerConfig:
    return TokenizerConfig.read(folder, optional=True)
