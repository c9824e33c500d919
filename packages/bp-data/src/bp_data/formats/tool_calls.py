"""Tools and tool calls, converted from every common notation to that of OpenAI and transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from bp_core.errors import BadRow

from ..reading.arrow import without_padding
from .fields import Value, from_json, given_list, plain, shown
from .records import Tools, Turn

_FIX = 'Write a call as {"type": "function", "function": {"name": "…", "arguments": {…}}}.'
_TOOL_FIX = 'Write a tool as {"type": "function", "function": {"name": "…", "parameters": {…}}}.'
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
_SPELLED_OUT = "<tools>"  # in a system turn that lists its tools itself (Hermes)


def read_tools(value: Value, where: str) -> Tools:
    """The row's `tools` (or `functions`): a list, or JSON text of one. Raises BadRow."""
    key = next((key for key in ("tools", "functions") if given_list(value.get(key))), None)
    if key is None:
        return ()
    tools = value[key]
    tools = from_json(tools, repr(key), where) if isinstance(tools, str) else tools
    tools = [tools] if isinstance(tools, Mapping) else tools
    if not isinstance(tools, list | tuple):
        raise BadRow(f"{key!r} must be a list of tools, not {shown(tools)}.", where=where, fix=_TOOL_FIX)
    plain(tools, repr(key), where)
    read = [_tool(tool, f"tool {number}", where) for number, tool in enumerate(tools, 1)]
    return tuple(without_padding(tool) for tool in read)  # null is no schema, whatever wrote it


def _tool(tool: object, name: str, where: str) -> dict[str, Any]:
    tool = from_json(tool, name, where) if isinstance(tool, str) else tool
    if isinstance(tool, Mapping):
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and _named(function):
            return dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
    raise BadRow(f"{name} has no name: {shown(tool)}.", where=where, fix=_TOOL_FIX)


def read_calls(value: object, name: str, where: str) -> list[Turn]:
    """Calls given as a list, as a single one, or as JSON text of either. Raises BadRow."""
    value = from_json(value, f"the call in {name}", where) if isinstance(value, str) else value
    calls = [value] if isinstance(value, Mapping) else value
    if not isinstance(calls, list | tuple) or not calls:
        raise BadRow(f"{name} must hold tool calls, not {shown(value)}.", where=where, fix=_FIX)
    read = [_call(call, name, where) for call in calls]
    plain(read, f"a tool call of {name}", where)
    return read


def _call(call: object, name: str, where: str) -> Turn:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping) or not _named(function):
        raise BadRow(f"a tool call of {name} has no name: {shown(call)}.", where=where, fix=_FIX)
    called = {"name": function["name"], "arguments": _arguments(function.get("arguments"), name, where)}
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**identity, "type": "function", "function": called}


def _named(function: Mapping[str, Any]) -> bool:
    return isinstance(function.get("name"), str) and bool(function["name"].strip())


def _arguments(value: object, name: str, where: str) -> dict[str, Any]:
    """The arguments as an object, which templates want; OpenAI's own form is JSON text of it."""
    if not given_list(value):
        return {}
    value = from_json(value, f"'arguments' of a call of {name}", where) if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise BadRow(f"'arguments' of a call of {name} must be an object, not {shown(value)}.", where=where)
    return dict(value)


def parse_marked_calls(turns: list[Turn], tools: Tools) -> tuple[list[Turn], Tools]:
    """Convert tool calls and results written as tagged text (Hermes) to tool calls and tool turns.

    Only if the row lists its tools and every tag can be parsed. If a system turn lists the tools itself, all stays text
    and the tools are dropped, because the template would write them a second time.
    """
    system = "".join(turn["content"] for turn in turns if turn["role"] == "system")
    if _SPELLED_OUT in system and all(_name(tool) in system for tool in tools):
        return turns, ()
    if not tools:
        return turns, tools
    untangled = [_parsed(turn) for turn in turns]
    if any(turn is None for turn in untangled):
        return turns, tools
    return [part for parts in untangled for part in parts or []], tools


def without_undeclared_nulls(turns: list[Turn], tools: Tools) -> list[Turn]:
    """The turns without arguments of calls that are null and that the tool does not have: padding of a table."""
    if not any("tool_calls" in turn for turn in turns):
        return turns
    declared = {_name(tool): _parameters(tool) for tool in tools}
    return [_with_declared(turn, declared) if "tool_calls" in turn else turn for turn in turns]


def _with_declared(turn: Turn, declared: Mapping[str, Any]) -> Turn:
    calls = []
    for call in turn["tool_calls"]:
        function = call["function"]
        known = declared.get(function["name"])
        arguments = function["arguments"]
        if known is not None:
            arguments = {key: item for key, item in arguments.items() if item is not None or key in known}
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return {**turn, "tool_calls": calls}


def _parameters(tool: Mapping[str, Any]) -> Any:
    """The names of a tool's parameters; None if it does not list them."""
    parameters = tool["function"].get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return properties.keys() if isinstance(properties, Mapping) else None


def _name(tool: Mapping[str, Any]) -> str:
    return str(tool["function"]["name"])


def _parsed(turn: Turn) -> list[Turn] | None:
    """The turn converted to one or more turns; None if a tag in it cannot be parsed."""
    if turn["role"] == "assistant" and "<tool_call>" in turn["content"]:
        text, calls = _split(turn["content"])
        return None if calls is None or "tool_calls" in turn else [{**turn, "content": text, "tool_calls": calls}]
    if turn["role"] == "tool" and "<tool_response>" in turn["content"]:
        rest = _RESPONSE.sub("", turn["content"])
        answers = _RESPONSE.findall(turn["content"])
        return None if rest.strip() else [{**turn, "content": answer.strip("\r\n")} for answer in answers]
    return [turn]


def _split(content: str) -> tuple[str, list[Turn] | None]:
    """The text before the calls, and the calls; None if one cannot be parsed, or text follows."""
    text, _, rest = content.partition("<tool_call>")
    rest = "<tool_call>" + rest
    if _CALL.sub("", rest).strip():
        return content, None
    try:
        return text.rstrip(), [_call(json.loads(call), "", "") for call in _CALL.findall(rest)]
    except (ValueError, RecursionError, BadRow):
        return content, None
