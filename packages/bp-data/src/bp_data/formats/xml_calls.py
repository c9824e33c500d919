"""Calls of tools in the XML form of Qwen3-Coder and Qwen 3.5, and in Llama's, whose arguments are JSON in such a tag.

<function=get_weather><parameter=city>Oslo</parameter></function>, or <function=get_weather>{"city": "Oslo"}</function>
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

XML_MARK = "<function="
_FUNCTION = re.compile(r"<function=([^<>\s]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^<>\s]+)>(.*?)</parameter>", re.DOTALL)
_PYTHON = {"True": True, "False": False, "None": None}  # as Jinja writes them
Schemas = Mapping[str, Any]  # the parameters of each tool, by its name


def xml_calls(text: str, schemas: Schemas) -> list[dict[str, Any]]:
    """The calls in a text that holds nothing else. Raises ValueError.

    An argument has no quotes there, so its type is the schema's; without one it is read as JSON, if it is some.
    """
    found = _FUNCTION.findall(text)
    if not found or _FUNCTION.sub("", text).strip():
        raise ValueError("text beside the calls")
    return [{"name": name, "arguments": _arguments(inside, schemas.get(name))} for name, inside in found]


def _arguments(inside: str, schema: Any) -> dict[str, Any]:
    if inside.lstrip().startswith("{"):
        arguments = json.loads(inside)
        return dict(arguments)
    if _PARAMETER.sub("", inside).strip():
        raise ValueError("text beside the parameters")
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    types = properties if isinstance(properties, Mapping) else {}
    return {name: _value(_inside(text), types.get(name)) for name, text in _PARAMETER.findall(inside)}


def _inside(text: str) -> str:
    """The text without the line ends that templates write after the opening tag and before the closing one."""
    return text.removeprefix("\n").removesuffix("\n")


def _value(text: str, schema: Any) -> Any:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind == "string":
        return text
    if text in _PYTHON:
        return _PYTHON[text]
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, str) else value
