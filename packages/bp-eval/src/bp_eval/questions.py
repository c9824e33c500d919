"""Questions with their expected answers, and asking a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bp_core.events import Notify, tracked
from bp_core.examples import Example
from bp_core.rail import Rail


@dataclass(frozen=True)
class Question:
    """A prompt as token ids and text; the expected answer and its length in tokens, 0 if the data has none.

    `asked` is what the user wrote, without the signs of the chat template; "" where that is not known.
    """

    tokens: Sequence[int]
    text: str
    expected: str = ""
    length: int = 0
    asked: str = ""


Answerer = Callable[[Question], str]
Decode = Callable[[Sequence[int]], str]  # token ids to text


def last_answer(example: Example) -> tuple[int, int]:
    """Start and end of the last run of trained tokens; in raw text, where all are trained, it starts at 1."""
    trained = bytes(example.trained)
    end = trained.rindex(1) + 1
    return trained.rfind(0, 0, end) + 1, end


def answer_text(tokens: Sequence[int], decode: Decode, stop: Sequence[int], limit: int | None = None) -> str:
    """An answer's tokens as text, without the stop tokens. One that `limit` cut short says so at its end."""
    text = decode([token for token in tokens if token not in stop]).strip()
    ended = bool(len(tokens)) and tokens[-1] in stop
    return text if limit is None or len(tokens) < limit or ended else cut_at(text, limit)


def cut_at(text: str, limit: int) -> str:
    """An answer that the limit cut short, and says so: else it looks like a fault of the model."""
    return f"{text.strip()} … (cut at {limit} tokens)"


def question_before(start: int, end: int, tokens: Sequence[int], decode: Decode, stop: Sequence[int]) -> Question:
    """The question before `tokens[start:end]`, which are the expected answer."""
    prompt = [int(token) for token in tokens[:start]]
    return Question(prompt, decode(prompt), answer_text(tokens[start:end], decode, stop), end - start)


def answering(
    rail: Rail, decode: Decode, stop: Sequence[int], limit: int, *, adapter: bool = True, to_read: bool = False
) -> Answerer:
    """A function that returns the rail's greedy answer, of at most `limit` tokens or up to one of `stop`.

    `to_read`: for a person, who is told where an answer was cut at the limit.
    """

    def answer(question: Question) -> str:
        tokens = rail.generate(question.tokens, limit=limit, stop=stop, adapter=adapter)
        return answer_text(tokens, decode, stop, limit if to_read else None)

    return answer


def ask(answer: Answerer, questions: Sequence[Question], stage: str, notify: Notify) -> list[str]:
    """The answers to all questions."""
    return [answer(question) for question in tracked(questions, stage, notify)]
