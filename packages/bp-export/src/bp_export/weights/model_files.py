"""The small JSON files of a Hugging Face model folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bp_core.errors import ModelUnusable


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A JSON object from a model folder; {} for a missing optional file. Raises ModelUnusable."""
    if optional and not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelUnusable(f"{path.name} is missing.", where=str(path.parent)) from error
    except ValueError as error:
        raise ModelUnusable("this is not valid JSON.", where=str(path)) from error
    if not isinstance(value, dict):
        raise ModelUnusable("this is not a JSON object.", where=str(path))
    return value


def chat_template(folder: Path) -> str:
    """The folder's chat template as transformers would choose it; "" if there is none."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json", optional=True).get("chat_template")
    if isinstance(template, list):  # several by name; "default" is the one for chat
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template or ""


def special_token(folder: Path, name: str) -> str | None:
    """The text of a special token such as "eos_token"; None if the tokenizer has none."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        value = read_json(folder / file, optional=True).get(name)
        text = value.get("content") if isinstance(value, Mapping) else value
        if text:
            return str(text)
    return None


_WRAPPED = re.compile(r"language_model\.")  # a text model inside one that also sees


def text_name(name: str) -> str:
    """A tensor's name as a text model alone would call it."""
    return _WRAPPED.sub("", name, count=1)
