"""Tools and tool calls, converted from every common notation to that of OpenAI and transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bp_core.errors import BadRow, BadToolCall

from ..reading.arrow import without_padding
from .fields import Value, from_json, given_list, plain, shown
from .records import Tools, Turn

_FIX = 'Write a call as {"type": "function", "function": {"name": "…", "arguments": {…}}}.'
TOOL_FIX = 'Write a tool as {"type": "function", "function": {"name": "…", "parameters": {…}}}.'
TOOL_KEYS = ("tools", "functions", "tool_defs", "tool_definitions", "available_tools")
_ARGUMENTS = ("arguments", "parameters", "input")  # OpenAI; Llama; Anthropic
_ENCODED = 3  # times that arguments may be JSON text inside JSON text
# xLAM and others write Python's names of types.
_TYPES = {
    **dict.fromkeys(("str", "text"), "string"),
    **dict.fromkeys(("int", "long"), "integer"),
    **dict.fromkeys(("float", "double"), "number"),
    "bool": "boolean",
    **dict.fromkeys(("list", "tuple", "set"), "array"),
    **dict.fromkeys(("dict", "mapping"), "object"),
}


def read_tools(value: Value, where: str) -> Tools:
    """The row's `tools`, under that name or another: a list, or JSON text of one. Raises BadRow."""
    key = next((key for key in TOOL_KEYS if given_list(value.get(key))), None)
    if key is None:
        return ()
    tools = value[key]
    tools = from_json(tools, repr(key), where) if isinstance(tools, str) else tools
    return read_tool_list(tools, repr(key), where)


def read_tool_list(tools: object, name: str, where: str) -> Tools:
    """A list of tools, or a single one, in any common notation. Raises BadRow."""
    tools = [tools] if isinstance(tools, Mapping) else tools
    if not isinstance(tools, list | tuple):
        raise BadRow(f"{name} must be a list of tools, not {shown(tools)}.", where=where, fix=TOOL_FIX)
    plain(tools, name, where)
    read = [_tool(tool, f"tool {number}", where) for number, tool in enumerate(tools, 1)]
    return tuple(without_padding(tool) for tool in read)  # null is no schema, whatever wrote it


def _tool(tool: object, name: str, where: str) -> dict[str, Any]:
    tool = from_json(tool, name, where) if isinstance(tool, str) else tool
    if isinstance(tool, Mapping):
        wrapped = isinstance(tool.get("function"), Mapping)
        function = tool["function"] if wrapped else {key: item for key, item in tool.items() if key != "type"}
        if _named(function):
            around = {"type": "function", **tool} if wrapped else {"type": "function"}
            return {**around, "function": _with_schema(function)}
    raise BadRow(f"{name} has no name: {shown(tool)}.", where=where, fix=TOOL_FIX)


def _with_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """The function with a JSON schema as its `parameters`: Anthropic's input_schema, or a mere list of parameters."""
    if "input_schema" in function and "parameters" not in function:
        function = {"parameters" if key == "input_schema" else key: item for key, item in function.items()}
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping) or not _is_mere_list(parameters):
        return dict(function)
    properties = {name: _typed(schema) for name, schema in parameters.items()}
    required = [name for name, schema in parameters.items() if _is_required(schema)]
    schema = {"type": "object", "properties": properties, **({"required": required} if required else {})}
    return {**function, "parameters": schema}


def _is_mere_list(parameters: Mapping[str, Any]) -> bool:
    """Whether the parameters stand there by name, without the schema around them."""
    is_schema = isinstance(parameters.get("type"), str) or "$ref" in parameters or "properties" in parameters
    return bool(parameters) and not is_schema and all(isinstance(each, Mapping) for each in parameters.values())


def _typed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's schema, with JSON's name of its type in place of Python's."""
    name = schema.get("type")
    if not isinstance(name, str):
        return dict(schema)
    python = re.split(r"[\[,\s]", name.strip(), maxsplit=1)[0].lower()
    return {**schema, "type": _TYPES.get(python, python)}


def _is_required(schema: Mapping[str, Any]) -> bool:
    said = schema.get("required")
    if isinstance(said, bool):
        return said
    return "default" not in schema and "optional" not in str(schema.get("type", "")).lower()


def read_calls(value: object, name: str, where: str) -> list[Turn]:
    """Calls given as a list, as a single one, or as JSON text of either. Raises BadRow."""
    value = from_json(value, f"the call in {name}", where) if isinstance(value, str) else value
    calls = [value] if isinstance(value, Mapping) else value
    if not isinstance(calls, list | tuple) or not calls:
        raise BadRow(f"{name} must hold tool calls, not {shown(value)}.", where=where, fix=_FIX)
    read = [read_call(call, name, where) for call in calls]
    plain(read, f"a tool call of {name}", where)
    return read


def read_call(call: object, name: str, where: str) -> Turn:
    """One call, in any common notation. Raises BadRow."""
    call = from_json(call, f"a tool call of {name}", where) if isinstance(call, str) else call
    function = _function(call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or function is None or not _named(function):
        raise BadRow(f"a tool call of {name} has no name: {shown(call)}.", where=where, fix=_FIX)
    key = next((key for key in _ARGUMENTS if given_list(function.get(key))), "")
    called = {"name": function["name"], "arguments": _arguments(function.get(key), key, name, where)}
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**identity, "type": "function", "function": called}


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name and arguments of a call, which may stand in the call itself."""
    function = call.get("function")
    if isinstance(function, str):
        return {**call, "name": function}
    return function if isinstance(function, Mapping) else call


def _named(function: Mapping[str, Any]) -> bool:
    return isinstance(function.get("name"), str) and bool(function["name"].strip())


def _arguments(value: object, key: str, name: str, where: str) -> dict[str, Any]:
    """The arguments as an object, which templates want; OpenAI's own form is JSON text of it.

    Text inside that text is read, too: a model that learns it answers with text where programs expect an object.
    """
    if not given_list(value):
        return {}
    for _ in range(_ENCODED):
        if isinstance(value, str):
            value = _from_json_text(value, key, name, where)
    if not isinstance(value, Mapping):
        raise BadToolCall(f"{key!r} of a call of {name} must be an object, not {shown(value)}.", where=where)
    return dict(value)


def _from_json_text(text: str, key: str, name: str, where: str) -> object:
    try:
        return from_json(text, f"{key!r} of a call of {name}", where)
    except BadRow as error:
        raise BadToolCall(error.message, where=where) from error


def without_undeclared_nulls(turns: list[Turn], tools: Tools) -> list[Turn]:
    """The turns without arguments of calls that are null and that the tool does not have: padding of a table."""
    if not any("tool_calls" in turn for turn in turns):
        return turns
    declared = {name_of(tool): _parameters(tool) for tool in tools}
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


def schemas_of(tools: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The schema of each tool's parameters, by its name; None where it has none."""
    return {name_of(tool): tool["function"].get("parameters") for tool in tools}


def name_of(tool: Mapping[str, Any]) -> str:
    """The name of a tool."""
    return str(tool["function"]["name"])
