"""Faults of tool calls are found by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bp_data.check import check
from bp_data.check.schema import mismatches

TOOL = {
    "type": "function",
    "function": {
        "name": "book_table",
        "parameters": {
            "type": "object",
            "required": ["guests"],
            "properties": {
                "guests": {"type": "integer"},
                "room": {"type": "string", "enum": ["hall", "garden"]},
                "at": {"$ref": "#/$defs/time"},
                "dishes": {"type": "array", "items": {"type": "string"}},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "$defs": {"time": {"type": "object", "properties": {"hour": {"type": "number"}}, "required": ["hour"]}},
        },
    },
}
GOOD = {"guests": 4, "room": "hall", "at": {"hour": 7.5}, "dishes": ["soup"], "note": None}
RESULT = {"role": "tool", "content": "booked"}


def row(arguments: Any = GOOD, name: str = "book_table", *after: dict[str, Any], content: str = "") -> dict[str, Any]:
    call = {"id": "c1", "function": {"name": name, "arguments": arguments}}
    turns = [{"role": "user", "content": "A table."}, {"role": "assistant", "content": content, "tool_calls": [call]}]
    return {"tools": [TOOL], "messages": [*turns, *after]}


def found(tmp_path: Path, *rows: dict[str, Any]) -> list[tuple[str, str, str]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    kinds = ("unknown-tool", "wrong-arguments", "stray-result", "call-text", "broken-call")
    findings = [each for each in check(path).findings if each.kind in kinds]
    return [(each.kind, each.place.rpartition(":")[2], each.message) for each in findings]


def test_good_calls_have_no_fault(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "Booked."}
    assert found(tmp_path, row(), row(json.dumps(GOOD), "book_table", {**RESULT, "tool_call_id": "c1"}, answer)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guests": "four"}, "arguments.guests is string, not integer"),
        ({"guests": True}, "arguments.guests is boolean, not integer"),
        ({"room": "cellar"}, "arguments.room is 'cellar', not one of 'hall', 'garden'"),
        ({"at": {}}, "arguments.at lacks 'hour'"),
        ({"dishes": ["soup", 3]}, "arguments.dishes[2] is integer, not string"),
        ({"note": 3}, "arguments.note matches none of its 2 schemas"),
        ({"guest": 4}, "arguments has 'guest', which the schema does not"),
    ],
)
def test_arguments_that_do_not_match_their_schema(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    assert found(tmp_path, row(), row(GOOD | change)) == [
        ("wrong-arguments", "2", f"turn 2 calls 'book_table': {message}")
    ]


def test_a_missing_argument_is_named(tmp_path: Path) -> None:
    assert found(tmp_path, row({})) == [("wrong-arguments", "1", "turn 2 calls 'book_table': arguments lacks 'guests'")]


def test_names_text_results_and_json(tmp_path: Path) -> None:
    spelled = {"role": "assistant", "content": "<tool_call>{book_table}</tool_call>"}
    rows = [
        row(GOOD, "book_tables"),
        {"messages": row()["messages"]},
        row(GOOD, "book_table", {**RESULT, "tool_call_id": "c9"}, spelled),
        {"tools": [TOOL], "messages": [{"role": "user", "content": "A table."}, RESULT, spelled]},
        row("{guests: 4"),
    ]
    assert found(tmp_path, *rows) == [
        ("broken-call", "5", "'arguments' of a call of turn 2 is not valid JSON (Expecting property name enclosed in "
         "double quotes: line 1 column 2 (char 1)): '{guests: 4'."),
        ("unknown-tool", "1", "turn 2 calls 'book_tables', and the row's tools are 'book_table'; did you mean "
         "'book_table'?"),
        ("unknown-tool", "2", "turn 2 calls 'book_table', and the row has no tools"),
        ("stray-result", "3", "turn 3 is the result of call 'c9', and there are 'c1'"),
        ("stray-result", "4", "turn 2 is a result, and no call before it waits for one"),
        ("call-text", "3", "turn 4 spells a call that cannot be read, so it is learned as text"),
        ("call-text", "4", "turn 3 spells a call that cannot be read, so it is learned as text"),
    ]  # fmt: skip


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert list(mismatches(3, schema, "x")) == []
    nested: Any = 3
    for _ in range(100):
        nested = [nested]
    assert list(mismatches(nested, {"type": "array", "items": {"$ref": "#"}}, "x")) == []
