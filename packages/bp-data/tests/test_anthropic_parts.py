"""Calls and results in the parts of Anthropic's interface become calls, and turns of tools."""

from __future__ import annotations

from typing import Any

import pytest

from bp_core.errors import BadRow, BadToolCall
from bp_data import Record, Row, convert

TOOLS = [
    {
        "name": "get_weather",
        "description": "The weather.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]
ASKED = {"role": "user", "content": "Oslo and Lima?"}


def use(city: Any, number: int) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": "get_weather", "input": {"city": city}}


def call(city: Any, number: int) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": {"city": city}}
    return {"id": f"toolu_{number}", "type": "function", "function": function}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def result(content: Any, number: int = 1, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": content, **more}


def tool(content: str, number: int = 1) -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": f"toolu_{number}"}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def turns_of(*turns: dict[str, Any], **columns: Any) -> list[dict[str, Any]]:
    record = convert(Row({"tools": TOOLS, "messages": [ASKED, *turns], **columns}, "f:1"))
    assert isinstance(record, Record) and isinstance(record.content, list)
    assert record.tools[0]["function"]["parameters"] == TOOLS[0]["input_schema"]
    return record.content


ANSWERS = {
    "a call alone": ([use("Oslo", 1)], said("", tool_calls=[call("Oslo", 1)])),
    "text before": ([text("I look."), use("Oslo", 1)], said("I look.", tool_calls=[call("Oslo", 1)])),
    "two calls": ([use("Oslo", 1), use("Lima", 2)], said("", tool_calls=[call("Oslo", 1), call("Lima", 2)])),
    "text between": (
        [text("I look."), use("Oslo", 1), text("And"), text(" there."), use("Lima", 2)],
        said("I look.\n\nAnd there.", tool_calls=[call("Oslo", 1), call("Lima", 2)]),
    ),
    "text after": ([use("Oslo", 1), text("One moment.")], said("One moment.", tool_calls=[call("Oslo", 1)])),
    "a thought": (
        [{"type": "thinking", "thinking": "Both.", "signature": "x"}, text("I look."), use("Oslo", 1)],
        said("I look.", reasoning_content="Both.", tool_calls=[call("Oslo", 1)]),
    ),
    "cache control": (
        [use("Oslo", 1) | {"cache_control": {"type": "ephemeral"}}],
        said("", tool_calls=[call("Oslo", 1)]),
    ),
    "no input": (
        [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}],
        said(
            "", tool_calls=[{"id": "toolu_1", "type": "function", "function": {"name": "get_weather", "arguments": {}}}]
        ),
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_uses_become_calls(name):
    parts, wanted = ANSWERS[name]
    assert turns_of(said(parts), user([result("15°")]), said("Mild."))[1] == wanted


RESULTS = {
    "a text": ([result("15°")], [tool("15°")]),
    "parts of text": ([result([text("15"), text("°")])], [tool("15°")]),
    "an object": ([result({"sky": "clear"})], [tool('{"sky": "clear"}')]),
    "nothing": ([{"type": "tool_result", "tool_use_id": "toolu_1"}], [tool("")]),
    "an empty list": ([result([])], [tool("")]),
    "an error": ([result("no such city", is_error=True)], [tool("Error: no such city")]),
    "an error that says so": ([result("Error 404", is_error=True)], [tool("Error 404")]),
    "an error in parts": ([result([text("gone")], is_error=True)], [tool("Error: gone")]),
    "not an error": ([result("15°", is_error=False)], [tool("15°")]),
    "two": ([result("15°"), result("20°", 2)], [tool("15°"), tool("20°", 2)]),
    "words after": ([result("15°"), text("And"), text(" now?")], [tool("15°"), user("And now?")]),
    "words between": (
        [text("Here:"), result("15°"), text("and"), result("20°", 2)],
        [user("Here:"), tool("15°"), user("and"), tool("20°", 2)],
    ),
    "no id": ([{"type": "tool_result", "content": "15°"}], [{"role": "tool", "content": "15°"}]),
}


# A tool's turn has no words of the user.
WHOSE = [
    (name, role) for name in RESULTS for role in ("user", "human", "tool") if role != "tool" or "words" not in name
]


@pytest.mark.parametrize(("name", "role"), WHOSE)
def test_results_become_turns_of_tools(name, role):
    parts, wanted = RESULTS[name]
    turns = turns_of(said([use("Oslo", 1), use("Lima", 2)]), {"role": role, "content": parts}, said("Mild."))
    assert turns[2:-1] == wanted


BROKEN = {
    "an image in a result": (
        user([result([{"type": "image", "source": {}}])]),
        "part 1 of 'content' of part 1 of turn 3",
    ),
    "a result of the assistant": (said([result("15°")]), "part 1 of 'content' of turn 3 is not text"),
    "a use of the user": (user([use("Oslo", 1)]), "turn 3 has reasoning or calls but is not the assistant's"),
    "a thought in a result": (user([result([{"type": "thinking", "thinking": "Hm."}])]), "is not the assistant's"),
    "no name": (
        said([{"type": "tool_use", "id": "toolu_1", "input": {}}]),
        "a tool call of part 1 of turn 3 has no name",
    ),
    "a server's tool": (
        said([{"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}]),
        "is not text",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_refused_by_turn_and_part(name):
    turn, message = BROKEN[name]
    with pytest.raises(BadRow) as refused:
        turns_of(said([use("Oslo", 1)]), turn, said("Mild."))
    assert message in refused.value.message and refused.value.where == "f:1"


def test_a_use_whose_input_is_no_object_is_refused():
    with pytest.raises(BadToolCall, match="'input' of a call of part 1 of turn 2 must be an object"):
        turns_of(said([{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": ["Oslo"]}]))


def test_the_system_text_beside_the_messages_may_be_in_parts():
    turns = turns_of(said("Mild."), system=[text("Be "), {**text("brief."), "cache_control": {"type": "ephemeral"}}])
    assert turns[0] == {"role": "system", "content": "Be brief."}
    with pytest.raises(BadRow, match="'system' of the row has reasoning or calls"):
        turns_of(said("Mild."), system=[text("Be"), use("Oslo", 1)])


def test_preferences_have_them_too():
    row = {
        "tools": TOOLS,
        "prompt": [ASKED, said([use("Oslo", 1)]), user([result("15°")])],
        "chosen": [said("Mild.")],
        "rejected": [said([use("Oslo", 2)])],
    }
    record = convert(Row(row, "f:1"))
    assert record.prompt[1:] == [said("", tool_calls=[call("Oslo", 1)]), tool("15°")]  # type: ignore[union-attr]
    assert record.rejected == [said("", tool_calls=[call("Oslo", 2)])]  # type: ignore[union-attr]
