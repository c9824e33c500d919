"""Answers in OpenAI's harmony form, which gpt-oss writes: messages on channels for thoughts, calls and the final text.

<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>, and a call as
<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>
"""

from __future__ import annotations

import json
import re

from .thought_marks import CLOSE, OPEN

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = re.compile(r"<\|(?:end|call|return)\|>")
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")
_TO = "to="
_TOOL = re.compile(rf"{_TO}(?:functions\.)?([\w.-]+)")
_THOUGHTS = "analysis"


def is_harmony(text: str) -> bool:
    """Whether an answer is in this form."""
    begun = text.lstrip()
    return begun.startswith(_CHANNEL) or (begun.startswith(_TO) and _CHANNEL in begun)


def may_become_harmony(text: str) -> bool:
    """Whether the beginning of an answer may be that of such a call."""
    begun = text.lstrip()
    return not is_harmony(text) and (begun.startswith(_TO) or _TO.startswith(begun))


def in_tags(text: str) -> str:
    """The answer in the tags that other models write: a thought in <think>, calls in <tool_call>.

    What is not complete is taken as far as it goes: a thought that has not ended has no closing tag.
    """
    thoughts: list[str] = []
    rest: list[str] = []
    closed = True
    for message in text.split(_START):
        header, begun, body = message.partition(_MESSAGE)
        if not begun:
            continue
        ends = _ENDS.search(body)
        said = body[: ends.start()] if ends else body
        channel = _CHANNEL_NAME.search(header)
        tool = _TOOL.search(header)
        if tool:
            rest.append(_call(tool[1], said))
        elif channel and channel[1] == _THOUGHTS:
            thoughts.append(said)
            closed = ends is not None
        else:
            rest.append(said)
    answer = "\n".join(rest)
    if not thoughts:
        return answer
    ended = closed or bool(rest)
    return OPEN + "\n".join(thoughts) + (CLOSE + answer if ended else "")


def _call(name: str, arguments: str) -> str:
    return f'<tool_call>{{"name": {json.dumps(name)}, "arguments": {arguments.strip() or "{}"}}}</tool_call>'
