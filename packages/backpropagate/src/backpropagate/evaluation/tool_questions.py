"""Questions with tools in rows of tokens: where a call is expected, and what a model calls."""

from __future__ import annotations

from collections.abc import Iterator

from bp_core.examples import Example
from bp_core.tool_call import Call
from bp_data.formats.call_texts import split_calls
from bp_data.tokenizer.question import tools_sign
from bp_eval.questions import Question, question_before
from bp_eval.thoughts import opens_thought, split_thought
from bp_eval.tool_calls import ToolAnswer, ToolQuestion

from .rows import Rows, rows_to_ask


def tool_questions(rows: Rows, count: int) -> list[ToolQuestion]:
    """Of the rows that `questions_in` asks, those with tools: each asks for its first call, or else its last answer."""
    sign = tools_sign(rows.tokenizer)
    found = (_question(example, rows) for example in rows_to_ask(rows, count)) if sign else ()
    return [asked for asked in found if asked and sign in asked.question.text]


def tool_answer(text: str, question: Question) -> ToolAnswer:
    """What a model's answer calls, read as strictly as a server does: JSON, and nothing after it."""
    answer = split_thought(text, opens_thought(question))
    found = split_calls(answer.text, _NamesIn(question.text))
    if found is None:
        return ToolAnswer(text, None)
    functions = (call["function"] for call in found[1])
    return ToolAnswer(text, [Call(function["name"], function["arguments"]) for function in functions])


def _question(example: Example, rows: Rows) -> ToolQuestion | None:
    decode, stop = rows.tokenizer.decode, rows.tokenizer.stop_ids(rows.contract)
    asked = None
    for start, end in _answers(example):
        question = question_before(start, end, example.tokens, decode, stop)
        calls = tool_answer(question.expected, question).calls
        if calls:
            return ToolQuestion(question, calls)
        asked = ToolQuestion(question, ()) if calls is not None else None
    return asked


def _answers(example: Example) -> Iterator[tuple[int, int]]:
    """Start and end of each run of trained tokens."""
    trained = bytes(example.trained)
    end = 0
    while (start := trained.find(1, end)) >= 0:
        end = trained.find(0, start)
        end = len(trained) if end < 0 else end
        yield start, end


class _NamesIn:
    """The names that a prompt holds in quotes, as tools stand there."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt

    def __contains__(self, name: object) -> bool:
        return f'"{name}"' in self._prompt
