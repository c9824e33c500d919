"""The small JSON files of a Hugging Face model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .errors import FileUnreadable, ModelUnusable

DEFAULT = "default"  # transformers' name of the chat template for conversations
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A JSON object from a model folder; {} for a missing optional file. Raises ModelUnusable, FileUnreadable."""
    if not path.is_file():
        if optional:
            return {}
        raise ModelUnusable(f"{path.name} is missing.", where=str(path.parent))
    text = _text(path)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ModelUnusable(f"this is not valid JSON: {error}.", where=str(path)) from error
    if not isinstance(value, dict):
        raise ModelUnusable("this is not a JSON object.", where=str(path))
    return value


@dataclass(frozen=True)
class TokenizerConfig:
    """Chat templates by name (several, or the default one, or none), and the texts of bos_token, eos_token, …"""

    templates: Mapping[str, str]
    special: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, *, optional: bool = False) -> Self:
        """As transformers reads tokenizer_config.json and the files beside it. Raises ModelUnusable, FileUnreadable."""
        settings = read_json(folder / "tokenizer_config.json", optional=optional)
        older = read_json(folder / "special_tokens_map.json", optional=True)
        special = {}
        for name in _TOKENS:
            token = settings.get(name) or older.get(name)
            text = token.get("content") if isinstance(token, Mapping) else token
            if text:
                special[name] = str(text)
        return cls(_templates(folder, settings.get("chat_template")), special)


def _templates(folder: Path, setting: Any) -> dict[str, str]:
    file = folder / "chat_template.jinja"
    if file.is_file():
        others = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        return {**{other.stem: _text(other) for other in others}, DEFAULT: _text(file)}
    if isinstance(setting, list):
        return {entry["name"]: entry["template"] for entry in setting}
    return {DEFAULT: setting} if isinstance(setting, str) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileUnreadable(f"the file cannot be read ({error}).", where=str(path)) from error
