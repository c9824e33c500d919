"""A chat template that knows thoughts, made of one that does not.

It reads `reasoning_content`, or a thought between tags in the content, writes it before the answer, leaves the thoughts
of earlier questions out, as Qwen 3's template does, and with `enable_thinking=false` begins the answer after an empty
thought. Conversations without thoughts are written by the model's own template, letter for letter as before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_core.thought_marks import CLOSE, KEY, has_thought

_CODE = re.compile(r"\{[%{](.*?)[%}]\}", re.DOTALL)
_TEXT = re.compile(r"'[^']{12,}'|\"[^\"]{12,}\"")  # longer than any key
_THINKING = re.compile(r"\b(enable_)?thinking\b")  # a key of turns, or a switch
_BEFORE = (Path(__file__).parent / "thoughts.jinja").read_text(encoding="utf-8").removesuffix("\n")
_AFTER = (
    r"{{ '<think>\n\n</think>\n\n' if add_generation_prompt and enable_thinking is defined and enable_thinking is false"
    " else '' }}"
)


def knows_thoughts(template: str) -> bool:
    """Whether a template reads thoughts, takes them out, or has a switch for them, by itself."""
    if KEY in template or CLOSE in template:
        return True
    return any(_THINKING.search(_TEXT.sub("", code)) for code in _CODE.findall(template))


def with_thoughts(template: str) -> str:
    """The template, with thoughts."""
    return before(template, _BEFORE).removesuffix("\n") + _AFTER  # Jinja ignores one line end at the end


def before(template: str, addition: str) -> str:
    """A template after some that only sets variables. White space at its beginning stays in its own line."""
    return addition + ("\n" if template[:1].isspace() else "") + template


def has_thoughts(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an answer has a thought that such a template would read."""
    return any(message["role"] == "assistant" and has_thought(message) for message in messages)
