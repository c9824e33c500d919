"""A model on rows: token loss and answers, how sure the numbers are, and what another model makes of the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bp_core.backends import choose_rail
from bp_core.errors import BadValue, NothingToEvaluate
from bp_core.events import Notify, Progress
from bp_core.rail import Job, Rail
from bp_data import ChatTokenizer
from bp_data.reading.files import Data
from bp_eval.bootstrap import difference, interval
from bp_eval.config import LONGEST_ANSWER, EvalConfig
from bp_eval.gates import OF_ANSWERS, OF_PAIRS, gates_in, judge
from bp_eval.measures import Baseline, Evaluation, ModelResults, losses, of_answers, of_loss, of_pairs
from bp_eval.questions import Question, answering, ask

from ..models.targets import BASE, Artifact
from .rows import Rows, check_data, given, of_run, questions_in, trained_on


def evaluate(name: str | Path, data: Data | None, config: EvalConfig, notify: Notify, /, **reading: Any) -> Evaluation:
    """Measure a model, and the one it is compared with, on `data`, or on the rows that its run held out.

    `reading` are fields of TrainConfig: how to cut and mask `data`, where not as the run did. Raises TargetNotFound,
    NothingToEvaluate, BadValue for two models that read text differently, and the errors of reading and of opening.
    """
    check_data(data, reading.get("columns", ""))
    source = Artifact.find(name)
    job = source.reading_job(config.dtype, notify)
    choose_rail(config.backend)
    tokenizer = source.tokenizer(job.model)
    other = _other(source, job, config, notify)
    if data is None:
        rows = of_run(tokenizer, source, config.samples, notify)
    else:
        rows = given(tokenizer, data, replace(source.settings, **reading), config.samples, notify)
    notes = [] if data is None else trained_on(source, rows, notify)
    _require_pairs(rows, config)
    questions = _questions(rows, config)
    mine = _read(source.name, job, rows, questions, config, notify)
    measures = {name: interval(ratio) for name, ratio in mine.ratios.items()}
    compared = None
    if other:
        theirs = _read(*other, rows, questions, config, notify)
        change = {name: difference(ratio, theirs.ratios[name]) for name, ratio in mine.ratios.items()}
        found = {name: interval(ratio) for name, ratio in theirs.ratios.items()}
        compared = Baseline(other[0], found, change, theirs.answers)
    return Evaluation(
        target=source.name,
        source=rows.source,
        rows=len(rows.examples),
        tokens=sum(example.trained_tokens for example in rows.examples),
        truncated=rows.truncated,
        measures=measures,
        questions=questions,
        answers=mine.answers,
        against=compared,
        gates=judge(gates_in(config.gate), measures, compared.change if compared else {}),
        notes=tuple(notes),
    )


@contextmanager
def opened(name: str, job: Job, backend: str, notify: Notify) -> Iterator[Rail]:
    """A model, open for reading. `name` is what the user is told of it."""
    _, rail, _ = choose_rail(backend)
    notify(Progress(f"load {name}", 0, 0))
    rail.open(job)
    with closing(rail):
        yield rail


def _other(source: Artifact, job: Job, config: EvalConfig, notify: Notify) -> tuple[str, Job] | None:
    """Name and job of the model to compare with, if there is one. What training added to a template is asked of both.
    """
    if config.against is None:
        return None
    if config.against == BASE:
        name, other = BASE, source.base_job(job, notify)
    else:
        named = Artifact.find(config.against)
        name, other = named.name, named.reading_job(config.dtype, notify)
    if ChatTokenizer.open(other.model).fingerprint != source.own_tokenizer(job.model).fingerprint:
        message = f"{source.name} and {name} have other tokenizers or chat templates: their losses are of other tokens"
        raise BadValue(f"{message}, and cannot be compared.", fix="Evaluate each alone, or use `compare`.")
    return name, other


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


def _read(
    name: str, job: Job, rows: Rows, questions: Sequence[Question], config: EvalConfig, notify: Notify
) -> ModelResults:
    limit = config.max_tokens or min(LONGEST_ANSWER, 2 * max((q.length for q in questions), default=0))
    with opened(name, job, config.backend, notify) as rail:
        chosen = losses(rail, rows.examples, f"loss of {name}", notify)
        rejected = losses(rail, rows.rejected, f"rejected answers, loss of {name}", notify)
        answer = answering(rail, rows.tokenizer.decode, rows.tokenizer.stop_ids(rows.contract), limit)
        answers = ask(answer, questions, f"answers of {name}", notify)
    ratios = of_loss(chosen) | of_pairs(chosen, rejected) | of_answers(answers, questions, config.regex)
    return ModelResults(ratios, answers)
