"""What a served model answers: text, thought and calls; and how often its calls are the expected ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bp_core.examples import Conversation
from bp_core.thought_marks import CLOSE, OPEN, has_thought
from bp_core.tool_call import Call, same_calls, same_names

from .chat_template import Tools, Turns
from .parity import Check

_Z = 1.96  # of a normal distribution, 95 % of which lie within


@dataclass(frozen=True)
class Reply:
    """An answer in its parts, as a server tells them. `ended`: the model ended it by itself.

    `read` is false where the model answered, and the server could make nothing of it: see `cannot_read`.
    """

    text: str
    thought: str = ""
    calls: tuple[Call, ...] = ()
    ended: bool = True
    read: bool = True

    @property
    def unclosed(self) -> bool:
        """Whether it was still thinking when it had to stop."""
        inside = self.text.lstrip().startswith(OPEN) and CLOSE not in self.text
        return not self.ended and (inside or (bool(self.thought) and not self.text and not self.calls))


@dataclass(frozen=True)
class ServedQuestion:
    """A conversation up to a question, its tools, and the calls that are expected; none: an answer in words.

    `thinks`: the expected answer has a thought.
    """

    turns: Turns
    tools: Tools = None
    calls: tuple[Call, ...] = ()
    thinks: bool = False


def cannot_read(message: str) -> bool:
    """Whether an error says that the server could not take apart what the model wrote.

    llama-server of some builds (seen: b10488, in Ollama of August 2026) answers so where the text has bytes that are
    not UTF-8, as hardly trained models write. The file is not at fault.
    """
    return "produced output that does not match" in message


class Ask(Protocol):
    """Ask a served model; `think` false asks for an answer without a thought."""

    def __call__(self, turns: Turns, tools: Tools = None, *, think: bool | None = None) -> Reply: ...


def call_of(function: Mapping[str, Any]) -> Call:
    """A call as a server tells it: the arguments are an object, or JSON text of one."""
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            arguments = None
    return Call(str(function.get("name", "")), arguments if isinstance(arguments, dict) else None)


def served_questions(conversations: Iterable[Conversation]) -> list[ServedQuestion]:
    """Of each conversation with tools, or with a thought in its last answer, one question.

    It ends before the first call of one of the tools, else before the last answer.
    """
    questions = []
    for talk in conversations:
        answers = [place for place, turn in enumerate(talk.turns) if turn["role"] == "assistant"]
        calling = [place for place in answers if talk.tools and talk.turns[place].get("tool_calls")]
        place = next(iter(calling or answers[-1:]), 0)
        if not place:
            continue
        expected = talk.turns[place]
        thinks = has_thought(expected)
        if talk.tools or thinks:
            calls = tuple(call_of(call["function"]) for call in expected.get("tool_calls") or () if talk.tools)
            questions.append(ServedQuestion(talk.turns[:place], list(talk.tools) or None, calls, thinks))
    return questions


def check_calls(where: str, questions: Sequence[ServedQuestion], replies: Sequence[Reply]) -> list[Check]:
    """The shares of the rows with a call whose call is parsed, has the right name and the right arguments; and of the
    other rows with tools, that none is made. With 95 % intervals. Nothing of it fails a proof: a model may have learned
    little.
    """
    pairs = [pair for pair in zip(questions, replies, strict=True) if pair[0].tools]
    called = [(asked.calls, reply.calls) for asked, reply in pairs if asked.calls]
    talked = [reply.read and not reply.calls for asked, reply in pairs if not asked.calls]
    rows = {
        "parsed": [bool(made) for _, made in called],
        "right name": [same_names(made, wanted) for wanted, made in called],
        "right arguments": [same_calls(made, wanted) for wanted, made in called],
        "no call where none is due": talked,
    }
    return [share(f"{where}: {name}", values) for name, values in rows.items() if values]


def check_read(where: str, replies: Sequence[Reply]) -> list[Check]:
    """How many answers the server could take apart; no check where it was all of them."""
    read = [reply.read for reply in replies]
    return [] if all(read) else [replace(share(f"{where}: answers that could be read", read), warning=True)]


def check_thoughts(
    where: str, questions: Sequence[ServedQuestion], replies: Sequence[Reply], unthinking: Sequence[Reply] = ()
) -> list[Check]:
    """Of the rows with a thought, how many answers come with one that is apart from the text, and how many `unthinking`
    replies, with thoughts switched off, have none; and of all, how many answers close their thought.

    No check where nobody thinks.
    """
    expected = [reply for asked, reply in zip(questions, replies, strict=True) if asked.thinks]
    rows = {"thought apart from the answer": [bool(reply.thought) and not reply.unclosed for reply in expected]}
    if any(reply.thought or reply.unclosed for reply in replies):
        rows["thoughts close"] = [not reply.unclosed for reply in replies]
    rows["no thought when switched off"] = [
        reply.read and not (reply.thought or OPEN in reply.text) for reply in unthinking
    ]
    return [share(f"{where}: {name}", values) for name, values in rows.items() if values]


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
