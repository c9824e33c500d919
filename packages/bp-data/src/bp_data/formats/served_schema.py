"""Schemas of tools as Ollama and llama-server hand them to a chat template.

Ollama reads a tool into Go structs, which have a few keys in one order and drop the others (api/types.go: Tool,
ToolFunctionParameters, ToolProperty), and what is of any type comes out with sorted keys. llama-server writes name,
description and parameters anew (common/chat.cpp, common_chat_tools_to_json_oaicompat), with an empty description where
there is none. What is written here goes through both unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from bp_core.choices import ToolSchema
from bp_core.config import TrainConfig

from .records import Record, Tools

Schema = dict[str, Any]
_FUNCTION = ("name", "description", "parameters")
_PARAMETERS = ("type", "$defs", "items", "required", "properties")
_PROPERTY = ("anyOf", "type", "items", "description", "enum", "properties", "required")
_ANY = ("$defs", "items", "enum")  # which Ollama keeps whole, with sorted keys


def served(tools: Tools) -> Tools:
    """The tools as a server would pass them on."""
    return tuple(_tool(tool["function"]) for tool in tools)


def with_schema(record: Record, schema: ToolSchema = TrainConfig.tool_schema) -> Record:
    """The record, its tools in the schema that is learned."""
    return record if schema == "as-is" or not record.tools else replace(record, tools=served(record.tools))


def dropped_keys(tools: Tools) -> set[str]:
    """The keys of the tools that a server drops: of the function, of its parameters, or of any of these."""
    found: set[str] = set()
    for tool in tools:
        found.update(key for key in tool if key not in ("type", "function"))
        function = tool["function"]
        found.update(key for key in function if key not in _FUNCTION)
        parameters = function.get("parameters")
        if isinstance(parameters, Mapping):
            found.update(_dropped(parameters, _PARAMETERS))
    return found


def _dropped(schema: Mapping[str, Any], known: tuple[str, ...]) -> Iterator[str]:
    yield from (key for key in schema if key not in known)
    for inner in _inside(schema):
        yield from _dropped(inner, _PROPERTY)


def _inside(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The schemas of a schema that Ollama reads into structs, too."""
    properties = schema.get("properties")
    inner = list(properties.values()) if isinstance(properties, Mapping) else []
    choices = schema.get("anyOf")
    inner += choices if isinstance(choices, list) else []
    return [each for each in inner if isinstance(each, Mapping)]


def _tool(function: Mapping[str, Any]) -> Schema:
    parameters = function.get("parameters")
    written = _schema(parameters if isinstance(parameters, Mapping) else {}, _PARAMETERS)
    written = {"type": "object", **written}
    properties = written.pop("properties", {})
    called = {"name": function["name"], "description": function.get("description") or ""}
    return {"type": "function", "function": {**called, "parameters": {**written, "properties": properties}}}


def _schema(schema: Mapping[str, Any], keys: tuple[str, ...]) -> Schema:
    """The schema with these keys, in this order; empty ones are left out."""
    written = {}
    for key in keys:
        value = schema.get(key)
        if value in (None, "", [], {}) and not (key == "properties" and value == {}):
            continue
        written[key] = _value(key, value)
    return written


def _value(key: str, value: Any) -> Any:
    if key == "properties" and isinstance(value, Mapping):
        return {name: _property(each) for name, each in value.items()}
    if key == "anyOf" and isinstance(value, list):
        return [_property(each) for each in value]
    if key == "type" and isinstance(value, list) and len(value) == 1:
        return value[0]
    return _sorted(value) if key in _ANY else value


def _property(schema: Any) -> Any:
    return _schema(schema, _PROPERTY) if isinstance(schema, Mapping) else schema


def _sorted(value: Any) -> Any:
    """A value as Go writes one of any type: keys in the order of their bytes, whole numbers without a point."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value, key=lambda key: str(key).encode())}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
