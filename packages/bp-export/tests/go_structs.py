"""What Ollama makes of a request before a template sees it: Go's structs keep some keys, in an order of their own.

After api/types.go at 0.21 and 0.33.
"""

import json

import go_text

_PROPERTY = ("anyOf", "type", "items", "description", "enum", "properties", "required")


def tools_as_kept(tools):
    return [{"type": tool.get("type", ""), "function": _function(tool.get("function", {}))} for tool in tools]


def _function(function):
    told = {"name": function.get("name", "")}
    told |= {"description": function["description"]} if function.get("description") else {}
    return told | {"parameters": _parameters(function.get("parameters") or {})}


def _parameters(given):
    kept = {"type": given.get("type", "")}
    for key in ("$defs", "items", "required"):
        kept |= {key: _sorted(given[key])} if given.get(key) else {}
    properties = given.get("properties")
    return kept | {"properties": properties and {name: _property(value) for name, value in properties.items()}}


def _property(given):
    kept = {}
    for key in _PROPERTY:
        value = given.get(key)
        if not value:
            continue
        if key == "anyOf":
            value = [_property(item) for item in value]
        elif key == "properties":
            value = {name: _property(item) for name, item in value.items()}
        elif key == "type" and isinstance(value, list) and len(value) == 1:
            (value,) = value
        elif key in ("items", "enum"):
            value = _sorted(value)
        kept[key] = value
    return kept


def _sorted(value):
    """A value of any kind: Go keeps objects as maps, and writes their keys in order; it knows one kind of number."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def tools_for_go_template(tools):
    """Before 0.30: properties are a map, and there is always a description."""
    return [_tool_for_go_template(tool) for tool in tools_as_kept(tools)]


def _tool_for_go_template(tool):
    function = {"name": tool["function"]["name"], "description": "", **tool["function"]}
    parameters = dict(function["parameters"])
    parameters["properties"] = dict(sorted((parameters["properties"] or {}).items()))
    function["parameters"] = parameters
    fields = {"Name": function["name"], "Description": function["description"], "Parameters": _struct(parameters)}
    return _struct({"type": tool["type"], "function": function}, Function=_struct(function, **fields))


def message_for_go_template(message):
    told = {"Role": message["role"], "Content": message.get("content") or "", "Thinking": message.get("thinking", "")}
    told |= {"ToolName": message.get("tool_name", ""), "ToolCallID": message.get("tool_call_id", "")}
    return told | {"ToolCalls": [_call_for_go_template(call) for call in message.get("tool_calls") or []]}


def _call_for_go_template(call):
    function = call["function"]
    arguments = _struct(_sorted(function.get("arguments") or {}))
    return {"ID": call.get("id", ""), "Function": {"Name": function["name"], "Arguments": arguments}}


def _struct(value, **fields):
    """A value of Go's, with what its function json makes of it."""
    return {**fields, "json": go_text.marshal(value)}


def message_for_llama_server(message):
    """A message of Ollama's API as it is passed on: content is a text, and earlier thoughts are left out."""
    told = {"role": message["role"]}
    for key, name in (("tool_call_id", "tool_call_id"), ("tool_name", "name")):
        told |= {name: message[key]} if message.get(key) else {}
    if calls := message.get("tool_calls"):
        told["tool_calls"] = [_call(call, number) for number, call in enumerate(calls)]
    return told | {"content": message.get("content") or ""}


def _call(call, number):
    function = call["function"]
    arguments = json.dumps(function.get("arguments") or {}, separators=(",", ":"), ensure_ascii=False)
    told = {"id": call["id"]} if call.get("id") else {}
    return told | {"index": number, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
