"""What Ollama accepts as a model's name: [[host/]namespace/]model[:tag]. Its own rules: types/model/name.go."""

from __future__ import annotations

import re

LONGEST = 80  # letters of each part but the host
NAME_FIX = "Use up to 80 of a-z, A-Z, 0-9, - _ and ., beginning with a letter, a digit or _; a :tag may follow."
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAMESPACE = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,343}(?::\d{1,5})?"
_NAME = re.compile(rf"(?:(?:{_HOST}/)?{_NAMESPACE}/)?{_PART}(?::{_PART})?")


def is_name(text: str) -> bool:
    """Whether Ollama takes this as a model's name."""
    return _NAME.fullmatch(text) is not None
