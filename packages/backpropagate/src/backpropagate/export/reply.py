"""An answer in its parts: the thought, the text, and the calls of tools; and its text taken apart while it comes in."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bp_core.harmony import may_become_harmony
from bp_core.thought_marks import CLOSE, OPEN
from bp_data.formats.call_texts import MARKS, split_calls
from bp_eval.thoughts import split_thought

Turn = dict[str, Any]
Message = Mapping[str, Any]
Kind = Literal["thought", "text"]
OnPiece = Callable[[Kind, str], None]


@dataclass(frozen=True)
class Reply:
    """`calls` are name and arguments; an unclosed thought has no text after it."""

    text: str
    thought: str = ""
    calls: Sequence[tuple[str, dict[str, Any]]] = ()
    closed: bool = True

    def as_dict(self) -> Turn:
        """The answer as a message of OpenAI's interface, arguments as text of JSON."""
        turn: Turn = {"role": "assistant", "content": self.text}
        if self.thought:
            turn["reasoning_content"] = self.thought
        if self.calls:
            turn["tool_calls"] = [_call(*call) for call in self.calls]
        return turn

    def turn(self) -> Turn:
        """The answer as a turn for a chat template, arguments as objects."""
        turn = self.as_dict()
        for call, (_, arguments) in zip(turn.get("tool_calls", ()), self.calls, strict=True):
            call["function"]["arguments"] = arguments
        return turn


def _call(name: str, arguments: dict[str, Any]) -> Turn:
    return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}}


class ReplyText:
    """Takes apart an answer that grows, and tells each new piece. What may be a call is kept until the end.

    `schemas`: the parameters of the tools, by their names.
    """

    def __init__(self, opened: bool, schemas: Mapping[str, Any], on_piece: OnPiece) -> None:
        self._opened, self._schemas, self._on_piece = opened, schemas, on_piece
        self._told = {"thought": 0, "text": 0}

    def grown(self, text: str) -> None:
        """Tell what is certain of the text so far."""
        if not self._opened and (_begins(text.lstrip(), OPEN) or may_become_harmony(text)):
            return  # it may be the beginning of a thought, or of a call
        answer = split_thought(text, self._opened)
        if answer.closed:
            self._tell("thought", answer.thought)
            self._tell("text", _before_call(answer.text, self._schemas))
        else:
            self._tell("thought", _without_beginning(answer.thought, CLOSE).rstrip())

    def done(self, text: str) -> Reply:
        """The whole answer; tells what is left of it."""
        answer = split_thought(text, self._opened)
        if not answer.closed:
            self._tell("thought", answer.thought)
            return Reply("", answer.thought, closed=False)
        said, calls = split_calls(answer.text, self._schemas) or (answer.text, [])
        self._tell("thought", answer.thought)
        self._tell("text", said)
        functions = (call["function"] for call in calls)
        return Reply(said.strip(), answer.thought, [(each["name"], each["arguments"]) for each in functions])

    def _tell(self, kind: Kind, text: str) -> None:
        new = text[self._told[kind] :]
        if new:
            self._told[kind] = len(text)
            self._on_piece(kind, new)


def _before_call(text: str, names: Collection[str]) -> str:
    """The text up to what is, or may become, the mark of a call."""
    ends = [text.index(mark) for mark in MARKS if mark in text]
    if ends:
        return text[: min(ends)].rstrip()
    if text.lstrip()[:1] in ("{", "[") and names:
        return ""
    for mark in MARKS:
        text = _without_beginning(text, mark)
    return text


def _begins(text: str, mark: str) -> bool:
    """Whether a mark begins with the text, and has more."""
    return len(text) < len(mark) and mark.startswith(text)


def _without_beginning(text: str, mark: str) -> str:
    """The text without an end that may be the beginning of a mark."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return text[:-length]
    return text
