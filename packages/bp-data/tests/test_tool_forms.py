"""Tools and calls as people write them become those of OpenAI."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bp_core.errors import BadToolCall
from bp_data import Record, Row, convert
from bp_data.formats.call_texts import split_calls

FUNCTION = {
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [{"type": "function", "function": FUNCTION}]
ARGUMENTS = {"city": "Oslo"}
BARE = {"name": "get_weather", "arguments": ARGUMENTS}
USER = {"role": "user", "content": "Oslo?"}
TEXT = json.dumps(ARGUMENTS)


def messages(*calls: Any, tools: Any = TOOLS, name: str = "tools", content: Any = "") -> dict[str, Any]:
    return {name: tools, "messages": [USER, {"role": "assistant", "content": content, "tool_calls": list(calls)}]}


def said(content: str, tools: Any = TOOLS) -> dict[str, Any]:
    return {"tools": tools, "messages": [USER, {"role": "assistant", "content": content}]}


def talk(*turns: tuple[str, str], tools: Any = None) -> dict[str, Any]:
    made = [{"from": who, "value": text} for who, text in (("human", "Oslo?"), *turns)]
    return {"conversations": made} | ({"tools": tools} if tools else {})


def wrapped(arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}


SYSTEM = "You are a function calling AI model. Here are the tools: <tools> {} </tools> For each call return …"
FORMS = {
    "text": messages(wrapped(TEXT)),
    "object": messages(wrapped(ARGUMENTS)),
    "encoded twice": messages(wrapped(json.dumps(TEXT))),
    "calls as text": messages() | {"messages": [USER, {"role": "assistant", "tool_calls": json.dumps([BARE])}]},
    "a call as text": messages(json.dumps(wrapped(TEXT))),
    "not wrapped": messages(BARE),
    "a null beside": messages(BARE | {"function": None, "id": None}, content=None),
    "name as function": messages({"function": "get_weather", "arguments": ARGUMENTS}),
    "parameters": messages({"function": {"name": "get_weather", "parameters": ARGUMENTS}}),
    "padded": messages(wrapped({"city": "Oslo", "unit": None})),
    "tools as text": messages(BARE, tools=json.dumps(TOOLS)),
    "bare functions": messages(BARE, tools=[FUNCTION]),
    "tool_defs": messages(BARE, tools=json.dumps([FUNCTION]), name="tool_defs"),
    "functions": messages(BARE, tools=[FUNCTION], name="functions"),
    "one call, older": {"functions": [FUNCTION], "messages": [USER, {"role": "assistant", "function_call": BARE}]},
    "sharegpt": talk(("function_call", json.dumps(BARE)), tools=json.dumps([FUNCTION])),
    "sharegpt, a list": talk(("function_call", json.dumps([BARE])), tools=json.dumps([FUNCTION])),
    "hermes": talk(("gpt", f"<tool_call>\n{json.dumps(BARE)}\n</tool_call>"), tools=json.dumps(TOOLS)),
    "hermes, python": talk(("gpt", f"<tool_call>\n{BARE}\n</tool_call>"), tools=json.dumps(TOOLS)),
    "a list in tags": said(f"<tool_call>{json.dumps([BARE])}</tool_call>"),
    "a list alone": said(json.dumps([BARE])),
    "llama": said(json.dumps({"name": "get_weather", "parameters": ARGUMENTS})),
    "mistral": said("[TOOL_CALLS] " + json.dumps([BARE])),
    "xlam": {"query": "Oslo?", "tools": json.dumps([FUNCTION]), "answers": json.dumps([BARE])},
    "xlam, objects": {"query": "Oslo?", "tools": [FUNCTION], "answers": [BARE]},
}


@pytest.mark.parametrize("name", FORMS)
def test_a_call_is_the_same_in_every_form(name: str) -> None:
    record = convert(Row(FORMS[name], "f:1"))
    assert isinstance(record, Record) and record.tools == tuple(TOOLS) and record.unused == ()
    question, answer = record.content
    assert question == USER
    assert isinstance(answer, dict) and answer["content"] == ""
    assert [call["function"] for call in answer["tool_calls"]] == [BARE]


def test_hermes_own_system_turn_gives_the_tools_and_makes_room() -> None:
    for listed in (json.dumps(TOOLS), json.dumps(FUNCTION), f"\n{json.dumps(FUNCTION)}\n{json.dumps(FUNCTION)}\n"):
        row = talk(("gpt", f"<tool_call>\n{json.dumps(BARE)}\n</tool_call>"))
        row["conversations"].insert(0, {"from": "system", "value": SYSTEM.format(listed)})
        record = convert(Row(row, "f:1"))
        assert isinstance(record, Record) and record.tools[0] == TOOLS[0]
        assert [turn["role"] for turn in record.content if isinstance(turn, dict)] == ["user", "assistant"]


def test_xlams_parameters_become_a_schema() -> None:
    parameters = {
        "city": {"description": "Where.", "type": "str"},
        "days": {"type": "int, optional"},
        "tags": {"type": "List[str]", "default": []},
        "type": {"type": "bool", "description": "a parameter of this name"},
    }
    row = FORMS["xlam"] | {"tools": [{"name": "get_weather", "parameters": parameters}]}
    (tool,) = convert(Row(row, "f:1")).tools
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "city": {"description": "Where.", "type": "string"},
            "days": {"type": "integer"},
            "tags": {"type": "array", "default": []},
            "type": {"type": "boolean", "description": "a parameter of this name"},
        },
        "required": ["city", "type"],
    }


def test_anthropics_schema_is_read() -> None:
    tool = {"name": "get_weather", "description": "The weather.", "input_schema": FUNCTION["parameters"]}
    assert convert(Row(messages(BARE, tools=[tool]), "f:1")).tools == tuple(TOOLS)


def test_a_result_that_is_an_object_is_written_as_json() -> None:
    row = messages(BARE)
    row["messages"] += [{"role": "tool", "content": {"mm": 3}}, {"role": "assistant", "content": "Rain."}]
    record = convert(Row(row, "f:1"))
    assert isinstance(record, Record) and isinstance(record.content[2], dict)
    assert record.content[2]["content"] == '{"mm": 3}'


@pytest.mark.parametrize("arguments", ["{city: Oslo", "Oslo", "[1]", 3, json.dumps(json.dumps(json.dumps(TEXT)))])
def test_arguments_that_are_no_object_are_refused_by_line(arguments: Any) -> None:
    with pytest.raises(BadToolCall, match="of a call of turn 2") as found:
        convert(Row(messages(wrapped(arguments)), "f:7"))
    assert found.value.where == "f:7"


@pytest.mark.parametrize(
    "text", ['{"name": "other", "arguments": {}}', "[]", '["get_weather"]', "{}", '{"city": "Oslo"}']
)
def test_other_json_is_an_answer(text: str) -> None:
    record = convert(Row(said(text), "f:1"))
    assert isinstance(record, Record) and record.content[1] == {"role": "assistant", "content": text}


def xml(*parameters: str, name: str = "get_weather") -> str:
    inside = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in map(str.split, parameters))
    return f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"


PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}, "near": {"type": "boolean"}, "at": {}}


def test_arguments_in_xml_are_of_the_types_of_the_schema() -> None:
    text = "Let me.\n\n" + xml("city 5", "days 3", "near True", "at [1,2]", "other 2.5") + "\n" + xml("city true")
    function = {"name": "get_weather", "parameters": {"type": "object", "properties": PROPERTIES}}
    record = convert(Row(said(text, [function]), "f:1"))
    assert isinstance(record, Record) and isinstance(record.content[1], dict)
    assert record.content[1]["content"] == "Let me."
    assert [call["function"]["arguments"] for call in record.content[1]["tool_calls"]] == [
        {"city": "5", "days": 3, "near": True, "at": [1, 2], "other": 2.5},
        {"city": "true"},
    ]


def test_without_a_schema_arguments_in_xml_are_json_where_they_can_be() -> None:
    (_, (call,)) = split_calls(xml("a 5", "b Oslo", 'c "Oslo"', "d None", 'e {"f":1}')) or ("", [{}])
    assert call["function"]["arguments"] == {"a": 5, "b": "Oslo", "c": '"Oslo"', "d": None, "e": {"f": 1}}


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call><function=get_weather>city</function></tool_call>",
        "<tool_call><function=get_weather><parameter=city>Oslo</function></tool_call>",
        "<tool_call><function=get_weather>",
        "<function=get_weather></function> and more",
        "<function=get_weather>{city}</function>",
        xml("city Oslo") + " and more",
    ],
)
def test_broken_xml_is_no_call(text: str) -> None:
    assert split_calls(text) is None


def test_a_call_that_cannot_be_read_is_none() -> None:
    assert split_calls("Hi") == ("Hi", [])
    assert split_calls("<tool_call>{'name': 'a'}</tool_call>") is None
    assert split_calls('<tool_call>{"name": "a"}</tool_call> and more') is None
    text, calls = split_calls('Let me.\n<tool_call>{"name": "a"}</tool_call>') or ("", [])
    assert text == "Let me." and calls[0]["function"] == {"name": "a", "arguments": {}}
