"""Faults of tool calls: unknown names, arguments that do not match the schema, text that is no call, stray results."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from ..formats.call_texts import is_marked
from ..formats.records import AnyRecord, Preference, Rated, Tools, Turn
from ..formats.tool_calls import schemas_of
from .schema import mismatches

Fault = tuple[str, str]  # the kind, and the message


def call_faults(record: AnyRecord) -> Iterator[Fault]:
    """The faults of a row's calls and results."""
    schemas = schemas_of(record.tools)
    for prefix, first, turns in _conversations(record):
        waiting = 0  # calls without a result yet
        identities: set[str] = set()
        for number, turn in enumerate(turns, 1):
            name = f"{prefix}turn {number}"
            calls = turn.get("tool_calls", [])
            if turn["role"] == "tool":
                if number > first:
                    yield from _of_result(turn, name, waiting, identities)
                waiting = max(0, waiting - 1)
            elif turn["role"] == "assistant":
                waiting, identities = len(calls), {call["id"] for call in calls if "id" in call}
                if number > first:
                    yield from _of_answer(turn, name, schemas, record.tools)


def _conversations(record: AnyRecord) -> Iterator[tuple[str, int, list[Turn]]]:
    """Conversations with what their turns are called after, and how many of their turns were in one before."""
    if isinstance(record, Preference):
        yield "", 0, record.prompt + record.chosen
        yield "rejected ", len(record.prompt), record.prompt + record.rejected
    else:
        turns = record.turns if isinstance(record, Rated) else record.content
        yield "", 0, [] if isinstance(turns, str) else turns


def _of_result(turn: Turn, name: str, waiting: int, identities: set[str]) -> Iterator[Fault]:
    identity = turn.get("tool_call_id")
    if not waiting:
        yield "stray-result", f"{name} is a result, and no call before it waits for one"
    elif identity and identities and identity not in identities:
        yield "stray-result", f"{name} is the result of call {identity!r}, and there are {_listed(identities)}"


def _of_answer(turn: Turn, name: str, schemas: Mapping[str, Any], tools: Tools) -> Iterator[Fault]:
    for call in turn.get("tool_calls", []):
        called, arguments = call["function"]["name"], call["function"]["arguments"]
        if called not in schemas:
            near = difflib.get_close_matches(called, schemas, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            there = f"and the row's tools are {_listed(schemas)}" if schemas else "and the row has no tools"
            yield "unknown-tool", f"{name} calls {called!r}, {there}{hint}"
            continue
        faults = list(mismatches(arguments, schemas[called] or {}, "arguments"))
        if faults:
            yield "wrong-arguments", f"{name} calls {called!r}: {'; '.join(faults)}"
    if tools and is_marked(turn["content"]):
        yield "call-text", f"{name} spells a call that cannot be read, so it is learned as text"


def _listed(names: Any) -> str:
    return ", ".join(map(repr, sorted(names)))
