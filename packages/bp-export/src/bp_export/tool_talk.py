"""A conversation with a tool, on which a template and a program that renders it are compared.

The tool is as servers hand it to a template: Ollama keeps these keys in this order and no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .chat_template import ChatTemplate, Tools, Turns

TOOLS: list[Mapping[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'The weather in a "place".',
            "parameters": {
                "type": "object",
                "required": ["place"],
                "properties": {
                    "days": {"type": "integer", "description": "How far to look."},
                    "place": {"type": "string", "description": "A town, such as 北京."},
                },
            },
        },
    }
]
ASKED: Mapping[str, Any] = {"role": "user", "content": 'What is the weather in "Łódź"?'}
_CALL_ID = "call12345"  # nine letters and digits, which Mistral's templates ask for
_CALL = {"name": "get_weather", "arguments": {"days": 2, "place": "Łódź"}}
_CALLED: Turns = [
    ASKED,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": _CALL_ID, "type": "function", "function": _CALL}],
    },
    {
        "role": "tool",
        "content": '{"sky": "clear"}',
        "name": "get_weather",
        "tool_name": "get_weather",
        "tool_call_id": _CALL_ID,
    },
]
TOOL_TALKS: Mapping[str, tuple[Turns, Tools]] = {"a tool": ([ASKED], TOOLS), "a call and its result": (_CALLED, TOOLS)}


def writes_tools(chat: ChatTemplate) -> bool:
    """Whether a chat template tells the model of its tools. Raises TemplateUnusable."""
    return chat.prompt([ASKED], TOOLS) != chat.prompt([ASKED])


def as_openai(turns: Turns) -> Turns:
    """The turns as OpenAI's API has them: the arguments of a call are a text."""
    return [_with_text_arguments(turn) for turn in turns]


def _with_text_arguments(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    if not turn.get("tool_calls"):
        return turn
    calls = []
    for call in turn["tool_calls"]:
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return {**turn, "tool_calls": calls}
