"""How thoughts stand in text: the tags around one, and the switch of chat templates that leaves it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPEN, CLOSE = "<think>", "</think>"
SWITCH = "enable_thinking"  # what templates and servers call it
KEY = "reasoning_content"  # of a turn that has its thought beside the text


def has_thought(turn: Mapping[str, Any]) -> bool:
    """Whether a turn has a thought: beside its text, or whole at the beginning of it."""
    content = turn.get("content")
    in_content = isinstance(content, str) and content.lstrip().startswith(OPEN) and content.count(CLOSE) == 1
    return bool(turn.get(KEY)) or in_content
