"""Schemas of tools as servers hand them to the template."""

from __future__ import annotations

import json
from typing import Any

from bp_data import ChatTokenizer, prepare
from bp_data.formats.served_schema import dropped_keys, served

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "strict": True,
        "parameters": {
            "properties": {
                "unit": {"enum": ["c", "f"], "default": "c", "type": ["string"], "description": "The unit."},
                "at": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "title": "At"},
                "places": {"items": {"type": "string", "minLength": 1, "a": 2.0}, "type": "array"},
                "in": {"required": ["x"], "properties": {"x": {"type": "number", "minimum": 0}}, "type": "object"},
                "of": {"$ref": "#/$defs/kind"},
            },
            "additionalProperties": False,
            "required": ["unit"],
            "$defs": {"kind": {"type": "string", "enum": ["a"]}},
            "type": "object",
        },
        "name": "get_weather",
    },
}


def test_keys_and_their_order_are_ollamas() -> None:
    (tool,) = served((TOOL,))
    assert json.dumps(tool) == json.dumps(
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "",
                "parameters": {
                    "type": "object",
                    "$defs": {"kind": {"enum": ["a"], "type": "string"}},
                    "required": ["unit"],
                    "properties": {
                        "unit": {"type": "string", "description": "The unit.", "enum": ["c", "f"]},
                        "at": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        "places": {"type": "array", "items": {"a": 2, "minLength": 1, "type": "string"}},
                        "in": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
                        "of": {},
                    },
                },
            },
        }
    )
    assert served((tool,)) == (tool,) and not dropped_keys((tool,))


def test_a_tool_without_parameters_has_an_empty_schema() -> None:
    (tool,) = served(({"type": "function", "function": {"name": "now"}},))
    empty = {"type": "object", "properties": {}}
    assert tool == {"type": "function", "function": {"name": "now", "description": "", "parameters": empty}}


def test_keys_that_ollama_drops_are_named() -> None:
    assert dropped_keys((TOOL,)) == {"strict", "additionalProperties", "default", "format", "title", "minimum", "$ref"}


def row(number: int) -> dict[str, Any]:
    call = {"name": "get_weather", "arguments": {"unit": "c"}}
    turns = [{"role": "user", "content": f"Oslo {number}?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    return {"tools": [TOOL], "messages": turns}


def test_training_learns_the_served_schema_unless_told_otherwise(smol: ChatTokenizer) -> None:
    tokenizer = smol.with_tools("hermes")
    found = prepare([row(n) for n in range(3)], tokenizer, max_length=2048)
    text = tokenizer.decode(found.examples[0].tokens)
    assert json.dumps(served((TOOL,))[0]) in text and "strict" not in text
    assert found.report.schema_keys["strict"] == 3 and found.report.places["schema_keys"][0] == "row 1"
    assert (found.contract.tools_template, found.contract.tool_schema) == ("hermes", "served")
    assert tokenizer.with_template(found.contract.template).knows_tools
    as_is = prepare([row(n) for n in range(3)], tokenizer, max_length=2048, tool_schema="as-is")
    assert json.dumps(TOOL) in tokenizer.decode(as_is.examples[0].tokens)
    assert as_is.contract.tool_schema == "as-is" and as_is.report.sha256 == found.report.sha256


def test_rows_without_tools_add_nothing(smol: ChatTokenizer) -> None:
    rows = [{"prompt": f"Hi {n}", "completion": "Yo"} for n in range(3)]
    plain, other = (prepare(rows, each, max_length=256) for each in (smol, smol.with_tools("hermes")))
    assert plain.contract == other.contract and plain.contract.template == smol.template
    thinking = prepare([*rows, {"prompt": "Hi", "completion": "<think>Hm.</think>Yo"}], smol, max_length=256)
    assert thinking.contract.adds_thoughts and "enable_thinking is false" in thinking.contract.template
    assert thinking.examples[0].tokens.tolist() == plain.examples[0].tokens.tolist()
