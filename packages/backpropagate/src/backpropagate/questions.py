"""Questions with the answers that the data has to them, and asking a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bp_core.contract import Contract
from bp_core.events import Notify, Progress
from bp_core.examples import Example
from bp_core.rail import Rail
from bp_data import ChatTokenizer

from .held_out import Rows


@dataclass(frozen=True)
class Question:
    """A prompt as tokens and text; what the data answers, and how many tokens that is, 0 where there is no data."""

    tokens: Sequence[int]
    text: str
    expected: str = ""
    length: int = 0


Answering = Callable[[Question], str]


def questions_in(rows: Rows, count: int) -> list[Question]:
    """Up to `count` questions, spread over the rows. A row asks for its last answer; raw text asks for nothing."""
    found = [(row, start, end) for row in rows.examples for start, end in [last_answer(row)] if start > 1]
    count = min(count, len(found))
    chosen = [found[number * len(found) // count] for number in range(count)]
    return [_question(rows, row, start, end) for row, start, end in chosen]


def last_answer(example: Example) -> tuple[int, int]:
    """Where the last stretch of trained tokens begins and ends; a text that is learned whole begins at 1."""
    trained = bytes(example.trained)
    end = trained.rindex(1) + 1
    return trained.rfind(0, 0, end) + 1, end


def spoken(tokens: Sequence[int], tokenizer: ChatTokenizer, contract: Contract | None) -> str:
    """An answer as text, without the tokens that end it."""
    stop = tokenizer.stop_ids(contract)
    return tokenizer.decode([token for token in tokens if token not in stop]).strip()


def answering(rail: Rail, tokenizer: ChatTokenizer, contract: Contract | None, limit: int) -> Answering:
    """The open rail's greedy answers, of at most `limit` tokens."""
    stop = tokenizer.stop_ids(contract)

    def answer(question: Question) -> str:
        return spoken(rail.generate(question.tokens, limit=limit, stop=stop), tokenizer, contract)

    return answer


def ask(answer: Answering, questions: Sequence[Question], stage: str, notify: Notify) -> list[str]:
    """The answers to all questions."""
    answers = []
    for done, question in enumerate(questions):
        notify(Progress(stage, done, len(questions)))
        answers.append(answer(question))
    return answers


def _question(rows: Rows, row: Example, start: int, end: int) -> Question:
    prompt, answer = row.tokens[:start], row.tokens[start:end]
    expected = spoken(answer, rows.tokenizer, rows.contract)
    return Question([int(token) for token in prompt], rows.tokenizer.decode(prompt), expected, end - start)
