"""A model on rows: token loss, preferences and answers, and how sure the numbers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_core.events import Notify, Progress
from bp_core.examples import Batch, Example
from bp_core.rail import Measured, Rail

from . import metrics
from .bootstrap import Interval, Ratio
from .gates import Judged
from .questions import Question

FEW = 20  # rows; an interval from fewer is too narrow
Measures = Mapping[str, Interval]


@dataclass(frozen=True)
class Compared:
    """The other model on the same rows; `change` is the first one's measures less its own, rows drawn together."""

    name: str
    measures: Measures
    change: Measures
    answers: Sequence[str]


@dataclass(frozen=True)
class Evaluation:
    """What was measured on `rows` rows, `truncated` of them cut, with `tokens` trained tokens.

    `answers` are the model's to `questions`. `gates` are judged in the order in which they were set.
    """

    target: str
    source: str
    rows: int
    tokens: int
    truncated: int
    measures: Measures
    questions: Sequence[Question]
    answers: Sequence[str]
    against: Compared | None
    gates: Sequence[Judged]

    def as_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("target", "source", "rows", "tokens", "truncated")}
        measures: dict[str, Any] = {"measures": _as_dicts(self.measures)}
        if self.against:
            other = {"name": self.against.name, "measures": _as_dicts(self.against.measures)}
            measures["against"] = other | {"change": _as_dicts(self.against.change)}
        return plain | measures | {"answers": self._answers(), "gates": [gate.as_dict() for gate in self.gates]}

    def _answers(self) -> list[dict[str, str]]:
        others = self.against.answers if self.against else self.answers
        rows = zip(self.questions, self.answers, others, strict=True)
        return [
            {"prompt": question.text, "expected": question.expected, "answer": answer}
            | ({"against": other} if self.against else {})
            for question, answer, other in rows
        ]


@dataclass(frozen=True)
class Reading:
    """What one model made of the rows: what each metric is the ratio of, and its answers."""

    ratios: Mapping[str, Ratio]
    answers: Sequence[str]


def losses(rail: Rail, rows: Sequence[Example], stage: str, notify: Notify) -> list[Measured]:
    """Nats and trained tokens of each row, each computed alone."""
    found = []
    for done, example in enumerate(rows):
        notify(Progress(stage, done, len(rows)))
        found.append(rail.evaluate(_alone(example)))
    return found


def _alone(example: Example) -> Batch:
    """A batch of one example."""
    return Batch(
        tokens=np.asarray(example.tokens, dtype=np.int32),
        trained=np.frombuffer(bytes(example.trained), dtype=np.bool_),
        lengths=np.array([len(example.tokens)], dtype=np.int32),
        desirable=np.array([example.desirable], dtype=np.bool_),
    )


def of_loss(losses: Sequence[Measured]) -> dict[str, Ratio]:
    nats, tokens = [found.loss for found in losses], [found.over for found in losses]
    return {"loss": Ratio(nats, tokens), "perplexity": Ratio(nats, tokens, lambda loss: np.exp(np.minimum(loss, 700)))}


def of_pairs(chosen: Sequence[Measured], rejected: Sequence[Measured]) -> dict[str, Ratio]:
    """How often the chosen answer is the likelier one, by the mean log-probability per token as ORPO and SimPO see it.

    Equal is not right, as in TRL's `rewards/accuracies`.
    """
    if not rejected:
        return {}
    wins = [float(c.loss / c.over < r.loss / r.over) for c, r in zip(chosen, rejected, strict=True)]
    return {"accuracy": Ratio(wins, [1.0] * len(wins))}


def of_answers(answers: Sequence[str], questions: Sequence[Question], pattern: str | None) -> dict[str, Ratio]:
    if not questions:
        return {}
    pairs = list(zip(answers, (question.expected for question in questions), strict=True))
    scores = {
        name: [score(answer, expected) for answer, expected in pairs]
        for name, score in (("exact_match", metrics.exact_match), ("f1", metrics.f1), ("contains", metrics.contains))
    }
    if pattern is not None:
        scores["regex"] = [metrics.regex(answer, pattern) for answer in answers]
    return {name: Ratio(values, [1.0] * len(values)) for name, values in scores.items()}


def _as_dicts(measures: Measures) -> dict[str, dict[str, float | None]]:
    return {name: found.as_dict() for name, found in measures.items()}
