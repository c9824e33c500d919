"""A model on rows: token loss and answers, how sure the numbers are, and what another model makes of the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bp_core.backends import choose_rail
from bp_core.errors import BadValue, NothingToEvaluate
from bp_core.events import Notify, Progress
from bp_core.rail import Job, Rail
from bp_data import ChatTokenizer
from bp_data.reading.files import Data
from bp_eval.bootstrap import Ratio, difference, interval
from bp_eval.config import LONGEST_ANSWER, EvalConfig
from bp_eval.gates import OF_ANSWERS, OF_PAIRS, OF_THOUGHTS, OF_TOOLS, gates_in, judge
from bp_eval.measures import (
    Baseline,
    Evaluation,
    ModelResults,
    ToolResults,
    losses,
    of_answers,
    of_loss,
    of_pairs,
)
from bp_eval.questions import Question, answering, ask
from bp_eval.thoughts import answers_of, of_thoughts
from bp_eval.tool_calls import ToolAnswer, ToolQuestion, of_tools

from ..models.targets import BASE, Artifact
from .rows import Rows, check_data, given, of_run, questions_in, trained_on
from .tool_questions import tool_answer, tool_questions


def evaluate(name: str | Path, data: Data | None, config: EvalConfig, notify: Notify, /, **reading: Any) -> Evaluation:
    """Measure a model, and the one it is compared with, on `data`, or on the rows that its run held out.

    `reading` are fields of TrainConfig: how to cut and mask `data`, where not as the run did. Raises TargetNotFound,
    NothingToEvaluate, BadValue for two models that read text differently, and the errors of reading and of opening.
    """
    check_data(data, reading.get("columns", ""))
    source = Artifact.find(name)
    job = source.reading_job(config.dtype, notify, config.base)
    choose_rail(config.backend)
    tokenizer = source.tokenizer(job.model)
    other = _other(source, job, config, notify)
    if data is None:
        rows = of_run(tokenizer, source, config.samples, notify)
    else:
        rows = given(tokenizer, data, replace(source.settings, **reading), config.samples, notify)
    notes = [] if data is None else trained_on(source, rows, notify)
    _require_pairs(rows, config)
    asked = _asked(rows, config)
    mine = _read(source.name, job, rows, asked, config, notify)
    theirs = _read(*other, rows, asked, config, notify) if other else None
    thinks = _thinks(asked.questions, [mine, *([theirs] if theirs else [])], config)
    ratios = _ratios(mine, rows, asked, config, thinks)
    measures = {name: interval(ratio) for name, ratio in ratios.items()}
    compared = None
    if other and theirs:
        others = _ratios(theirs, rows, asked, config, thinks)
        change = {name: difference(ratio, others[name]) for name, ratio in ratios.items()}
        found = {name: interval(ratio) for name, ratio in others.items()}
        compared = Baseline(other[0], found, change, theirs.answers)
    return Evaluation(
        target=source.name,
        source=rows.source,
        rows=len(rows.examples),
        tokens=sum(example.trained_tokens for example in rows.examples),
        truncated=rows.truncated,
        measures=measures,
        questions=asked.questions,
        answers=mine.answers,
        against=compared,
        gates=judge(gates_in(config.gate), measures, compared.change if compared else {}),
        notes=tuple(notes),
        tools=_tool_results(asked, mine, theirs),
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
    """Name and job of the model to compare with, if there is one. Both get the template of what was trained."""
    if config.against is None:
        return None
    if config.against == BASE:
        name, other = BASE, source.base_job(job, notify)
    else:
        named = Artifact.find(config.against)
        name, other = named.name, named.reading_job(config.dtype, notify)
    if not _read_alike(source, job, other):
        message = f"{source.name} and {name} have other tokenizers or chat templates: their losses are of other tokens"
        raise BadValue(f"{message}, and cannot be compared.", fix="Evaluate each alone, or use `compare`.")
    return name, other


def _read_alike(source: Artifact, job: Job, other: Job) -> bool:
    """Whether both models read text as the same tokens, apart from what training added to a chat template."""
    mine, theirs = source.tokenizer(job.model), ChatTokenizer.open(other.model)
    if mine.fingerprint == theirs.fingerprint:
        return True
    contract = source.contract
    adds_tools = contract is not None and contract.tools_template != "none"
    if contract is None or not (adds_tools or contract.adds_thoughts):
        return False
    able = theirs.with_tools(contract.tools_template) if adds_tools and not theirs.knows_tools else theirs
    made = able.written_by(theirs.template, tools=adds_tools, thoughts=contract.adds_thoughts)
    return made == contract.template and theirs.with_template(made).fingerprint == mine.fingerprint


def _require_pairs(rows: Rows, config: EvalConfig) -> None:
    if not rows.rejected and any(gate.metric in OF_PAIRS for gate in gates_in(config.gate)):
        message = f"a gate is on {', '.join(OF_PAIRS)}, but the rows are no pairs of a chosen and a rejected answer."
        raise NothingToEvaluate(message, where=rows.source, fix="Give pairs with --data, or leave that gate out.")


@dataclass(frozen=True)
class Asked:
    """What both models are asked: the last answer of some rows, and of those with tools their call."""

    questions: Sequence[Question]
    tool_questions: Sequence[ToolQuestion]


def _asked(rows: Rows, config: EvalConfig) -> Asked:
    questions = questions_in(rows, config.answers)
    wanted = config.regex or any(gate.metric in OF_ANSWERS + OF_THOUGHTS for gate in gates_in(config.gate))
    if wanted and not questions:
        message = "no row has a question before its answer, so there are no answers to judge."
        raise NothingToEvaluate(message, where=rows.source, fix="Give conversations, or leave out --regex and gates.")
    asked = Asked(questions, tool_questions(rows, config.answers))
    there = of_tools([ToolAnswer("", ())] * len(asked.tool_questions), asked.tool_questions)
    missing = [gate.metric for gate in gates_in(config.gate) if gate.metric in OF_TOOLS and gate.metric not in there]
    if missing:
        what = "is without a call" if missing[0] == "tools.no_call" else "has a call"
        message = f"a gate is on {missing[0]}, but of the rows that are asked none has tools and {what}."
        raise NothingToEvaluate(
            message, where=rows.source, fix="Give such rows, ask more (--answers), or drop that gate."
        )
    return asked


def _read(name: str, job: Job, rows: Rows, asked: Asked, config: EvalConfig, notify: Notify) -> ModelResults:
    with_tools = [one.question for one in asked.tool_questions]
    everything = {tuple(one.tokens): one for one in (*asked.questions, *with_tools)}
    limit = config.max_tokens or min(LONGEST_ANSWER, 2 * max((q.length for q in everything.values()), default=0))
    with opened(name, job, config.backend, notify) as rail:
        chosen = losses(rail, rows.examples, f"loss of {name}", notify)
        rejected = losses(rail, rows.rejected, f"rejected answers, loss of {name}", notify)
        answer = answering(rail, rows.tokenizer.decode, rows.tokenizer.stop_ids(rows.contract), limit)
        said = ask(answer, list(everything.values()), f"answers of {name}", notify)
    by_prompt = dict(zip(everything, said, strict=True))
    answers = [by_prompt[tuple(question.tokens)] for question in asked.questions]
    tool_answers = [tool_answer(by_prompt[tuple(one.question.tokens)], one.question) for one in asked.tool_questions]
    return ModelResults(chosen, rejected, answers, tool_answers)


def _thinks(questions: Sequence[Question], results: Sequence[ModelResults], config: EvalConfig) -> bool:
    """Whether there are thoughts to tell of: in the data, in an answer, or since a gate asks for them."""
    texts = [[question.expected for question in questions], *(result.answers for result in results)]
    thoughts = (answer for each in texts for answer in answers_of(each, questions))
    by_gate = any(gate.metric in OF_THOUGHTS for gate in gates_in(config.gate))
    return by_gate or any(answer.thought or not answer.closed for answer in thoughts)


def _ratios(found: ModelResults, rows: Rows, asked: Asked, config: EvalConfig, thinks: bool) -> dict[str, Ratio]:
    ratios = of_loss(found.chosen) | of_pairs(found.chosen, found.rejected)
    ratios |= of_answers(found.answers, asked.questions, config.regex)
    ratios |= of_tools(found.tool_answers, asked.tool_questions)
    if thinks and asked.questions:
        answers = answers_of(found.answers, asked.questions)
        ratios |= of_thoughts(answers, lambda text: len(rows.tokenizer.encode(text)))
    return ratios


def _tool_results(asked: Asked, mine: ModelResults, theirs: ModelResults | None) -> ToolResults | None:
    if not asked.tool_questions:
        return None
    return ToolResults(asked.tool_questions, mine.tool_answers, theirs.tool_answers if theirs else ())
