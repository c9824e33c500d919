"""The result of an evaluation: loss, preference accuracy and answers, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_core.events import Notify, tracked
from bp_core.examples import Batch, Example
from bp_core.rail import EvalSums, Rail

from . import metrics
from .bootstrap import Interval, Ratio
from .gates import GateResult
from .questions import Question
from .thoughts import answers_of
from .tool_calls import ToolAnswer, ToolQuestion

FEW = 20  # rows; a bootstrap interval from fewer is too narrow
Measures = Mapping[str, Interval]


@dataclass(frozen=True)
class Baseline:
    """The other model on the same rows. `change`: the evaluated model's measures minus its own (paired bootstrap)."""

    name: str
    measures: Measures
    change: Measures
    answers: Sequence[str]


@dataclass(frozen=True)
class ToolResults:
    """What models made of questions with tools. `against` is empty where there is no other model."""

    questions: Sequence[ToolQuestion]
    answers: Sequence[ToolAnswer]
    against: Sequence[ToolAnswer] = ()

    @property
    def with_call(self) -> int:
        """How many of the questions want a call."""
        return sum(bool(asked.calls) for asked in self.questions)

    def as_dict(self) -> dict[str, Any]:
        rows = [_tool_row(*pair) for pair in zip(self.questions, self.answers, strict=True)]
        for row, other in zip(rows, self.against, strict=False):
            row["against"] = _tool_answer(other)
        counts = {"with_call": self.with_call, "without_call": len(self.questions) - self.with_call}
        return {**counts, "rows": rows}


def _tool_row(asked: ToolQuestion, answer: ToolAnswer) -> dict[str, Any]:
    wanted = [call.as_dict() for call in asked.calls]
    return {"prompt": asked.question.text, "expected": wanted, "answer": _tool_answer(answer)}


def _tool_answer(answer: ToolAnswer) -> dict[str, Any]:
    calls = None if answer.calls is None else [call.as_dict() for call in answer.calls]
    return {"text": answer.text, "calls": calls}


@dataclass(frozen=True)
class Evaluation:
    """An evaluation on `rows` rows, `truncated` of them cut, with `tokens` trained tokens.

    `answers` are the model's, one for each of `questions`. `gates` are in the order in which they were set. `notes` say
    what must be known to read the numbers, such as that rows were trained on.
    """

    target: str
    source: str
    rows: int
    tokens: int
    truncated: int
    measures: Measures
    questions: Sequence[Question]
    answers: Sequence[str]
    against: Baseline | None
    gates: Sequence[GateResult]
    notes: tuple[str, ...] = ()
    tools: ToolResults | None = None

    def as_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("target", "source", "rows", "tokens", "truncated")}
        measures: dict[str, Any] = {"measures": _as_dicts(self.measures)}
        if self.against:
            other = {"name": self.against.name, "measures": _as_dicts(self.against.measures)}
            measures["against"] = other | {"change": _as_dicts(self.against.change)}
        plain["notes"] = list(self.notes)
        tools = {"tools": self.tools.as_dict()} if self.tools else {}
        return plain | measures | tools | {"answers": self._answers(), "gates": [gate.as_dict() for gate in self.gates]}

    def _answers(self) -> list[dict[str, str]]:
        others = self.against.answers if self.against else self.answers
        rows = zip(self.questions, self.answers, others, strict=True)
        return [
            {"prompt": question.text, "expected": question.expected, "answer": answer}
            | ({"against": other} if self.against else {})
            for question, answer, other in rows
        ]


@dataclass(frozen=True)
class ModelResults:
    """One model's results on the rows: losses of the rows and of their rejected answers, and its answers."""

    chosen: Sequence[EvalSums]
    rejected: Sequence[EvalSums]
    answers: Sequence[str]
    tool_answers: Sequence[ToolAnswer] = ()


def losses(rail: Rail, rows: Sequence[Example], stage: str, notify: Notify) -> list[EvalSums]:
    """Summed loss (nats) and number of trained tokens of each row, each computed alone."""
    return [rail.evaluate(_batch_of_one(example)) for example in tracked(rows, stage, notify)]


def _batch_of_one(example: Example) -> Batch:
    return Batch(
        tokens=np.asarray(example.tokens, dtype=np.int32),
        trained=np.frombuffer(bytes(example.trained), dtype=np.bool_),
        lengths=np.array([len(example.tokens)], dtype=np.int32),
        desirable=np.array([example.desirable], dtype=np.bool_),
    )


def of_loss(losses: Sequence[EvalSums]) -> dict[str, Ratio]:
    nats = [sums.loss for sums in losses]
    tokens = [sums.over for sums in losses]
    return {"loss": Ratio(nats, tokens), "perplexity": Ratio(nats, tokens, lambda loss: np.exp(np.minimum(loss, 700)))}


def of_pairs(chosen: Sequence[EvalSums], rejected: Sequence[EvalSums]) -> dict[str, Ratio]:
    """The share of pairs whose chosen answer has the higher mean log-probability per token, as in ORPO and SimPO.

    A tie counts as wrong, as in TRL's `rewards/accuracies`.
    """
    if not rejected:
        return {}
    wins = [float(c.loss / c.over < r.loss / r.over) for c, r in zip(chosen, rejected, strict=True)]
    return {"accuracy": Ratio(wins, [1.0] * len(wins))}


def of_answers(answers: Sequence[str], questions: Sequence[Question], pattern: str | None) -> dict[str, Ratio]:
    """How near the answers are to the expected ones, both without their thoughts."""
    if not questions:
        return {}
    expected = [answer.text for answer in answers_of([question.expected for question in questions], questions)]
    said = [answer.text for answer in answers_of(answers, questions)]
    scores = {}
    for score in (metrics.exact_match, metrics.f1, metrics.contains):
        scores[score.__name__] = [score(*pair) for pair in zip(said, expected, strict=True)]
    if pattern is not None:
        scores["regex"] = [metrics.regex(answer, pattern) for answer in said]
    return {name: Ratio(values, [1.0] * len(values)) for name, values in scores.items()}


def _as_dicts(measures: Measures) -> dict[str, dict[str, float | None]]:
    return {name: found.as_dict() for name, found in measures.items()}
