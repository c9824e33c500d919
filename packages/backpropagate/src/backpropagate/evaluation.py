"""A model on rows: token loss and answers, how sure the numbers are, and what another model makes of the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bp_core.backends import choose_rail
from bp_core.config import LONGEST_ANSWER, EvalConfig
from bp_core.errors import BadValue, NothingToEvaluate
from bp_core.events import Notify, Progress
from bp_core.examples import Example
from bp_core.gates import OF_ANSWERS, OF_PAIRS, gates_in
from bp_core.rail import Measured, Rail
from bp_data import ChatTokenizer
from bp_data.preparing.batches import Step

from . import metrics
from .bootstrap import Interval, Ratio, difference, interval
from .held_out import Rows
from .judging import Judged, judge
from .questions import Question, answering, ask, questions_in
from .targets import BASE, Target, base, target

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
class _Reading:
    """What one model made of the rows."""

    ratios: Mapping[str, Ratio]
    answers: Sequence[str]


def evaluate(
    subject: Target, read_rows: Callable[[ChatTokenizer], Rows], config: EvalConfig, notify: Notify
) -> Evaluation:
    """Measure a model, and the one it is compared with, on the rows that `read_rows` makes for its tokenizer.

    Raises NothingToEvaluate, BadValue for two models that read text differently, and the errors of opening them.
    """
    choose_rail(config.backend)
    tokenizer = ChatTokenizer.open(subject.job.model)
    other = _other(subject, tokenizer, config, notify)
    rows = read_rows(tokenizer)
    _require_pairs(rows, config)
    questions = _questions(rows, config)
    mine = _read(subject, rows, questions, config, notify)
    measures = {name: interval(ratio) for name, ratio in mine.ratios.items()}
    compared = None
    if other:
        theirs = _read(other, rows, questions, config, notify)
        change = {name: difference(ratio, theirs.ratios[name]) for name, ratio in mine.ratios.items()}
        found = {name: interval(ratio) for name, ratio in theirs.ratios.items()}
        compared = Compared(other.name, found, change, theirs.answers)
    return Evaluation(
        target=subject.name,
        source=rows.source,
        rows=len(rows.examples),
        tokens=sum(example.targets for example in rows.examples),
        truncated=rows.truncated,
        measures=measures,
        questions=questions,
        answers=mine.answers,
        against=compared,
        gates=judge(gates_in(config.gate), measures, compared.change if compared else {}),
    )


@contextmanager
def opened(subject: Target, backend: str, notify: Notify) -> Iterator[Rail]:
    """A model, open for reading."""
    _, rail, _ = choose_rail(backend)
    notify(Progress(f"load {subject.name}", 0, 0))
    rail.open(subject.job)
    try:
        yield rail
    finally:
        rail.close()


def _other(subject: Target, tokenizer: ChatTokenizer, config: EvalConfig, notify: Notify) -> Target | None:
    if config.against is None:
        return None
    find = partial(base, subject) if config.against == BASE else partial(target, config.against)
    other = find(config.dtype, notify)
    if ChatTokenizer.open(other.job.model).fingerprint != tokenizer.fingerprint:
        message = f"{subject.name} and {other.name} have other tokenizers or chat templates: their losses are of other"
        raise BadValue(f"{message} tokens, and cannot be compared.", fix="Evaluate each alone, or use `compare`.")
    return other


def _require_pairs(rows: Rows, config: EvalConfig) -> None:
    if not rows.rejected and any(gate.metric in OF_PAIRS for gate in gates_in(config.gate)):
        message = f"a gate is on {', '.join(OF_PAIRS)}, but the rows are no pairs of a chosen and a rejected answer."
        raise NothingToEvaluate(message, where=rows.source, fix="Give pairs with --data, or leave that gate out.")


def _questions(rows: Rows, config: EvalConfig) -> list[Question]:
    questions = questions_in(rows, config.answers)
    wanted = config.regex or any(gate.metric in OF_ANSWERS for gate in gates_in(config.gate))
    if wanted and not questions:
        message = "no row has a question before its answer, so there are no answers to judge."
        raise NothingToEvaluate(message, where=rows.source, fix="Give conversations, or leave out --regex and gates.")
    return questions


def _read(subject: Target, rows: Rows, questions: Sequence[Question], config: EvalConfig, notify: Notify) -> _Reading:
    limit = config.max_tokens or min(LONGEST_ANSWER, 2 * max((q.length for q in questions), default=0))
    with opened(subject, config.backend, notify) as rail:
        chosen = losses(rail, rows.examples, f"loss of {subject.name}", notify)
        rejected = losses(rail, rows.rejected, f"rejected answers, loss of {subject.name}", notify)
        answer = answering(rail, rows.tokenizer, rows.contract, limit)
        answers = ask(answer, questions, f"answers of {subject.name}", notify)
    ratios = _of_loss(chosen) | _of_pairs(chosen, rejected) | _of_answers(answers, questions, config.regex)
    return _Reading(ratios, answers)


def losses(rail: Rail, rows: Sequence[Example], stage: str, notify: Notify) -> list[Measured]:
    """Nats and trained tokens of each row, each computed alone."""
    found = []
    for done, example in enumerate(rows):
        notify(Progress(stage, done, len(rows)))
        (batch,) = Step([[example]]).split(1)
        found.append(rail.evaluate(batch))
    return found


def _of_loss(losses: Sequence[Measured]) -> dict[str, Ratio]:
    nats, tokens = [found.loss for found in losses], [found.over for found in losses]
    return {"loss": Ratio(nats, tokens), "perplexity": Ratio(nats, tokens, lambda loss: np.exp(np.minimum(loss, 700)))}


def _of_pairs(chosen: Sequence[Measured], rejected: Sequence[Measured]) -> dict[str, Ratio]:
    """How often the chosen answer is the likelier one, by the mean log-probability per token as ORPO and SimPO see it.

    Equal is not right, as in TRL's `rewards/accuracies`.
    """
    if not rejected:
        return {}
    wins = [float(c.loss / c.over < r.loss / r.over) for c, r in zip(chosen, rejected, strict=True)]
    return {"accuracy": Ratio(wins, [1.0] * len(wins))}


def _of_answers(answers: Sequence[str], questions: Sequence[Question], pattern: str | None) -> dict[str, Ratio]:
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
