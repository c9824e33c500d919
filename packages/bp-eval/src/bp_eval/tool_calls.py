"""Tool calls of a model beside the expected ones: whether they can be read, name the right tool, have the arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .bootstrap import Ratio
from .gates import NO_CALL
from .questions import Question


@dataclass(frozen=True)
class Call:
    """The name of a tool, and its arguments as a JSON object."""

    name: str
    arguments: Any

    @property
    def key(self) -> tuple[str, str]:
        """The same for calls that are equal as JSON."""
        return self.name, json.dumps(_plain(self.arguments), sort_keys=True)

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": self.arguments}


@dataclass(frozen=True)
class ToolQuestion:
    """A question with tools, and the calls that are expected; none where an answer in words is."""

    question: Question
    calls: Sequence[Call]


@dataclass(frozen=True)
class ToolAnswer:
    """What a model made of a question with tools: the text, and its calls; None where they cannot be read."""

    text: str
    calls: Sequence[Call] | None


def of_tools(answers: Sequence[ToolAnswer], questions: Sequence[ToolQuestion]) -> dict[str, Ratio]:
    """Shares of the questions that want calls: read, with the right names, with the right arguments; and of the
    others, the share without a call. Several calls may come in any order.
    """
    pairs = list(zip(answers, questions, strict=True))
    called = [(answer.calls or (), asked.calls) for answer, asked in pairs if asked.calls]
    talked = [answer for answer, asked in pairs if not asked.calls]
    shares = {}
    if called:
        shares["tools.parsed"] = [float(bool(made)) for made, _ in called]
        shares["tools.name"] = [float(_names(made) == _names(wanted)) for made, wanted in called]
        shares["tools.arguments"] = [float(_keys(made) == _keys(wanted)) for made, wanted in called]
    if talked:
        shares[NO_CALL] = [float(answer.calls is not None and not answer.calls) for answer in talked]
    return {name: Ratio(values, [1.0] * len(values)) for name, values in shares.items()}


def _names(calls: Sequence[Call]) -> list[str]:
    return sorted(call.name for call in calls)


def _keys(calls: Sequence[Call]) -> list[tuple[str, str]]:
    return sorted(call.key for call in calls)


def _plain(value: Any) -> Any:
    """A JSON value in which numbers that are equal are written alike."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
