"""What a served model answers: text, thought and calls; and how often its calls are the expected ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bp_core.thought_marks import CLOSE, OPEN
from bp_core.tool_call import Call, same_calls, same_names

from .chat_template import Tools, Turns
from .parity import Check

_Z = 1.96  # of a normal distribution, 95 % of which lie within


@dataclass(frozen=True)
class Reply:
    """An answer in its parts, as a server tells them. `ended`: the model ended it by itself."""

    text: str
    thought: str = ""
    calls: tuple[Call, ...] = ()
    ended: bool = True

    @property
    def unclosed(self) -> bool:
        """Whether it was still thinking when it had to stop."""
        inside = self.text.lstrip().startswith(OPEN) and CLOSE not in self.text
        return not self.ended and (inside or (bool(self.thought) and not self.text and not self.calls))


@dataclass(frozen=True)
class CallQuestion:
    """A conversation up to a question, its tools, and the calls that are expected; none: an answer in words."""

    turns: Turns
    tools: Tools
    calls: tuple[Call, ...] = ()


Ask = Callable[[Turns, Tools], Reply]


def call_of(function: Mapping[str, Any]) -> Call:
    """A call as a server tells it: the arguments are an object, or JSON text of one."""
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            arguments = None
    return Call(str(function.get("name", "")), arguments if isinstance(arguments, dict) else None)


def call_questions(conversations: Iterable[tuple[Turns, Tools]]) -> list[CallQuestion]:
    """Of each conversation with tools one question: before its first call, else before its last answer."""
    questions = []
    for turns, tools in conversations:
        answers = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        calling = [place for place in answers if turns[place].get("tool_calls")]
        if not tools or not answers:
            continue
        place = calling[0] if calling else answers[-1]
        calls = tuple(call_of(call["function"]) for call in turns[place].get("tool_calls") or ())
        if place:
            questions.append(CallQuestion(turns[:place], tools, calls))
    return questions


def check_calls(where: str, questions: Sequence[CallQuestion], replies: Sequence[Reply]) -> list[Check]:
    """The shares of the rows with a call whose call is parsed, has the right name and the right arguments; and of the
    others, that none is made. With 95 % intervals. Nothing of it fails a proof: a model may have learned little.
    """
    pairs = list(zip(questions, replies, strict=True))
    called = [(asked.calls, reply.calls) for asked, reply in pairs if asked.calls]
    talked = [not reply.calls for asked, reply in pairs if not asked.calls]
    rows = {
        "parsed": [bool(made) for _, made in called],
        "right name": [same_names(made, wanted) for wanted, made in called],
        "right arguments": [same_calls(made, wanted) for wanted, made in called],
        "no call where none is due": talked,
    }
    return [share(f"{where}: {name}", values) for name, values in rows.items() if values]


def check_thoughts(where: str, replies: Sequence[Reply]) -> list[Check]:
    """How many answers close their thought; no check where nobody thinks."""
    if not any(reply.thought or reply.unclosed for reply in replies):
        return []
    return [share(f"{where}: thoughts close", [not reply.unclosed for reply in replies])]


def share(name: str, values: Sequence[bool]) -> Check:
    """How many of the values are true, with Wilson's 95 % interval. A warning where none is."""
    count, total = sum(values), len(values)
    low, high = _interval(count, total)
    note = f"{count / total:.0%} of {total} rows, {low:.0%} to {high:.0%} of all such"
    return Check(name, f"{count} of {total}", None, passed=True, warning=not count, note=note)


def _interval(count: int, total: int) -> tuple[float, float]:
    mean, square = count / total, _Z * _Z
    middle = (mean + square / (2 * total)) / (1 + square / total)
    half = _Z * math.sqrt(mean * (1 - mean) / total + square / (4 * total * total)) / (1 + square / total)
    return max(middle - half, 0.0), min(middle + half, 1.0)
