"""Questions with the answers that the data has to them, and asking a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bp_core.events import Notify, Progress
from bp_core.examples import Example
from bp_core.rail import Rail


@dataclass(frozen=True)
class Question:
    """A prompt as tokens and text; what the data answers, and how many tokens that is, 0 where there is no data."""

    tokens: Sequence[int]
    text: str
    expected: str = ""
    length: int = 0


Answering = Callable[[Question], str]
Decode = Callable[[Sequence[int]], str]  # token ids to text


def last_answer(example: Example) -> tuple[int, int]:
    """Where the last stretch of trained tokens begins and ends; a text that is learned whole begins at 1."""
    trained = bytes(example.trained)
    end = trained.rindex(1) + 1
    return trained.rfind(0, 0, end) + 1, end


def spoken(tokens: Sequence[int], decode: Decode, stop: Sequence[int]) -> str:
    """An answer as text, without the tokens that end it."""
    return decode([token for token in tokens if token not in stop]).strip()


def answering(rail: Rail, decode: Decode, stop: Sequence[int], limit: int) -> Answering:
    """The open rail's greedy answers, of at most `limit` tokens, to the first of `stop`."""

    def answer(question: Question) -> str:
        return spoken(rail.generate(question.tokens, limit=limit, stop=stop), decode, stop)

    return answer


def ask(answer: Answering, questions: Sequence[Question], stage: str, notify: Notify) -> list[str]:
    """The answers to all questions."""
    answers = []
    for done, question in enumerate(questions):
        notify(Progress(stage, done, len(questions)))
        answers.append(answer(question))
    return answers
