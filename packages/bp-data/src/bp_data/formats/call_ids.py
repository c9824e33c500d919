"""Ids of tool calls, for templates that want them: nine letters and digits, as Mistral's do."""

from __future__ import annotations

import hashlib
import json
import re

from .records import Turn

_LENGTH = 9
_VALID = re.compile(r"[A-Za-z0-9]{9}")


def with_call_ids(turns: list[Turn]) -> tuple[list[Turn], int]:
    """The turns in which every call and every result has such an id, and how many calls got one.

    An id is made of the call and its place, so that the same row always gets the same. Results without an id answer the
    calls before them in their order.
    """
    made_up = 0
    renamed: dict[str, str] = {}
    waiting: list[str] = []  # ids of calls without a result yet
    identified = []
    for index, turn in enumerate(turns):
        if "tool_calls" in turn:
            calls = [_identified(call, index, number) for number, call in enumerate(turn["tool_calls"])]
            for before, call in zip(turn["tool_calls"], calls, strict=True):
                made_up += before.get("id") != call["id"]
                renamed[before.get("id") or call["id"]] = call["id"]
            waiting = [call["id"] for call in calls]
            turn = {**turn, "tool_calls": calls}
        elif turn["role"] == "tool":
            known = renamed.get(turn.get("tool_call_id", ""))
            answered = known or (waiting[0] if waiting else None)
            if answered:
                waiting = [call for call in waiting if call != answered]
                turn = {**turn, "tool_call_id": answered}
        identified.append(turn)
    return identified, made_up


def _identified(call: Turn, turn: int, number: int) -> Turn:
    given = call.get("id", "")
    if _VALID.fullmatch(given):
        return call
    content = json.dumps([turn, number, given, call["function"]], sort_keys=True, default=str).encode()
    return {"id": hashlib.blake2b(content).hexdigest()[:_LENGTH], **{k: v for k, v in call.items() if k != "id"}}
