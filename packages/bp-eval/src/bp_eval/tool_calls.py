"""Tool calls of a model beside the expected ones: whether they can be read, name the right tool, have the arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bp_core.tool_call import Call, same_calls, same_names

from .bootstrap import Ratio
from .gates import NO_CALL
from .questions import Question


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
        shares["tools.name"] = [float(same_names(made, wanted)) for made, wanted in called]
        shares["tools.arguments"] = [float(same_calls(made, wanted)) for made, wanted in called]
    if talked:
        shares[NO_CALL] = [float(answer.calls is not None and not answer.calls) for answer in talked]
    return {name: Ratio(values, [1.0] * len(values)) for name, values in shares.items()}
