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
_ARGUMENTS = {"days": 2, "place": "Łódź"}


def _call(number: int, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": _call_id(number), "type": "function", "function": function}


def _result(number: int) -> Mapping[str, Any]:
    name = "get_weather"
    told = {"role": "tool", "content": '{"sky": "clear"}', "name": name, "tool_name": name}
    return {**told, "tool_call_id": _call_id(number)}


def _call_id(number: int) -> str:
    """Nine letters and digits, which Mistral's templates ask for."""
    return f"call{number:05}"


def _talk(*arguments: Mapping[str, Any]) -> Turns:
    """A question, calls with these arguments, and a result of each."""
    calls = [_call(number, given) for number, given in enumerate(arguments)]
    results = [_result(number) for number in range(len(arguments))]
    return [ASKED, {"role": "assistant", "content": "", "tool_calls": calls}, *results]


TOOL_TALKS: Mapping[str, tuple[Turns, Tools]] = {
    "a tool": ([ASKED], TOOLS),
    "a call and its result": (_talk(_ARGUMENTS), TOOLS),
    "two calls and their results": (_talk(_ARGUMENTS, {"days": 1, "place": "<北京> & more"}), TOOLS),
}


def _reversed_properties(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool["function"]
    parameters = function["parameters"]
    properties = dict(reversed(parameters["properties"].items()))
    return {**tool, "function": {**function, "parameters": {**parameters, "properties": properties}}}


# Parameters and arguments in an order that is not that of their names.
UNSORTED: tuple[Turns, Tools] = (
    _talk(dict(reversed(_ARGUMENTS.items()))),
    [_reversed_properties(tool) for tool in TOOLS],
)


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
