"""The small JSON files of a Hugging Face model folder."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .errors import FileUnreadable, ModelUnusable

VOCABULARY = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
_OTHER_VOCABULARIES = {
    "tokenizer.model": "SentencePiece's tokenizer.model",
    "tekken.json": "Mistral's tekken.json",
    "vocab.json": "a vocab.json",
}
_NEEDED = {"tokenizer.model": {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}}
_OPEN = "import sys; from transformers import AutoTokenizer; tokenizer = AutoTokenizer.from_pretrained(sys.argv[1]); "
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


def read_vocabulary(folder: Path) -> dict[str, Any]:
    """The folder's tokenizer.json. Raises ModelUnusable, for a tokenizer of another kind with the command that converts
    it, and FileUnreadable.
    """
    kind = other_vocabulary(folder)
    if kind:
        message = f"the tokenizer is {_OTHER_VOCABULARIES[kind]}, and there is no {VOCABULARY}."
        raise ModelUnusable(message, where=str(folder), fix=_conversion(folder, kind))
    return read_json(folder / VOCABULARY)


def other_vocabulary(folder: Path) -> str | None:
    """The file of a tokenizer that only transformers can convert, where there is no tokenizer.json beside it."""
    if (folder / VOCABULARY).is_file():
        return None
    return next((name for name in _OTHER_VOCABULARIES if (folder / name).is_file()), None)


def python_command(code: str, *arguments: str | Path) -> str:
    """A command line that runs Python code with this Python, as it must be typed on this system."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _conversion(folder: Path, kind: str) -> str:
    """The command that writes tokenizer.json beside the other files; the settings only where there are none."""
    saving = "tokenizer.save_pretrained(sys.argv[1])"
    if (folder / SETTINGS).is_file():
        saving = f'tokenizer.backend_tokenizer.save(sys.argv[1] + "/{VOCABULARY}")'
    needed = [package for module, package in _NEEDED.get(kind, {}).items() if not _is_installed(module)]
    first = f"Install {' and '.join(needed)}, then write" if needed else "Write"
    return f"{first} {VOCABULARY} beside it: {python_command(_OPEN + saving, folder)}"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


@dataclass(frozen=True)
class TokenizerConfig:
    """Chat templates by name (several, or the default one, or none), and the texts of bos_token, eos_token, …"""

    templates: Mapping[str, str]
    special: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, *, optional: bool = False) -> Self:
        """As transformers reads tokenizer_config.json and the files beside it. Raises ModelUnusable, FileUnreadable."""
        settings = read_json(folder / SETTINGS, optional=optional)
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
