"""A chat template that knows tools, made of one that does not, in the form of Hermes, which Qwen 2.5 and 3 use too.

Tools, calls and results become text of the system turn, of answers and of user turns. Conversations without them are
written by the model's own template, letter for letter as before.
https://huggingface.co/NousResearch/Hermes-2-Pro-Llama-3-8B, "Prompt Format for Function Calling"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_core.choices import ToolsTemplate

from .thoughts_template import before

_HERMES = (Path(__file__).parent / "hermes_tools.jinja").read_text(encoding="utf-8").removesuffix("\n")
# Where the tools stand: after the text of the system turn; or before the first question, where there are no such turns.
_PLACES = {
    "system": "{'role': 'system', 'content': content + '\\n\\n' + calling.system}",
    "user": "{'role': 'user', 'content': calling.system + '\\n\\n' + content}",
}


def with_tools(template: str, form: ToolsTemplate, *, has_system: bool) -> str:
    """The template, with tools in a form. `has_system`: it writes system turns."""
    assert form == "hermes", f"there is no other form than hermes, not {form}"
    role = "system" if has_system else "user"
    return before(template, _HERMES.replace("SYSTEM_TURN", _PLACES[role]).replace("SYSTEM_ROLE", role))


def has_tools(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a conversation has anything that such a template would read."""
    return bool(tools) or any(message.get("tool_calls") or message["role"] == "tool" for message in messages)
