"""Thoughts before answers: taken off before an answer is measured, and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bp_core.harmony import in_tags, is_harmony
from bp_core.thought_marks import CLOSE, OPEN

from .bootstrap import Ratio
from .questions import Question


@dataclass(frozen=True)
class Answer:
    """What was thought, and the answer after it. A thought that never closes has no answer after it."""

    thought: str
    text: str
    closed: bool = True


def split_thought(text: str, opened: bool = False) -> Answer:
    """A text in two. `opened`: the prompt has begun the thought already. Calls in harmony's form come back in tags."""
    if is_harmony(text):
        text = in_tags(text)
    inside = text.lstrip()
    if inside.startswith(OPEN):
        inside = inside.removeprefix(OPEN)
    elif not opened:
        return Answer("", text)
    thought, closing, answer = inside.partition(CLOSE)
    return Answer(thought.strip(), answer.strip(), closed=bool(closing))


def opens_thought(question: Question) -> bool:
    """Whether the prompt ends inside of a thought."""
    return question.text.rstrip().endswith(OPEN)


def answers_of(texts: Sequence[str], questions: Sequence[Question]) -> list[Answer]:
    """The answers to questions, without their thoughts."""
    return [split_thought(text, opens_thought(question)) for text, question in zip(texts, questions, strict=True)]


def of_thoughts(answers: Sequence[Answer], count: Callable[[str], int]) -> dict[str, Ratio]:
    """Tokens of thought in an answer, on average, by `count`; and the share of answers whose thought never closes."""
    each = [1.0] * len(answers)
    lengths = [float(count(answer.thought)) if answer.thought else 0.0 for answer in answers]
    unclosed = [float(not answer.closed) for answer in answers]
    return {"thoughts.tokens": Ratio(lengths, each), "thoughts.unclosed": Ratio(unclosed, each)}
