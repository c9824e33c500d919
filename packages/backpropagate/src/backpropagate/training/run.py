"""One run of training: from an opened model to a published adapter and a record that says how it ended."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bp_core.choices import PAIRED
from bp_core.config import TrainConfig
from bp_core.errors import BackpropagateError, DiskFull, OutputUnusable
from bp_core.events import Evaluated, Event, Opened, Planned, Sampled, Stepped, Warned, Watch
from bp_core.examples import Conversation, Example
from bp_core.folders import digest, sweep
from bp_core.process_group import all_agree, no_op
from bp_core.rail import Job, ModelInfo, Rail
from bp_core.recipe import Recipe
from bp_data import Batches, ChatTokenizer, Prepared
from bp_data.preparing.losses import trimmed
from bp_data.reading.files import Data
from bp_data.tokenizer.question import asked
from bp_eval.improvement import improvement, row_losses
from bp_eval.questions import Question, answering, last_answer, question_before
from bp_plan import speed
from bp_plan.plan import Plan
from bp_resilience import CheckpointManager, LoopContext, Signals, State, nvml
from bp_resilience import train as run_loop
from bp_resilience.loop import no_samples
from bp_runs import lock_file, read_events
from bp_runs.recorder import Recording
from bp_runs.run_folder import HELD_OUT_FILE, RunFolder
from bp_runs.wishes import WishReader

from ..models import locate
from ..models.published import WEIGHTS, publish, weights_in
from ..progress import silent
from ..reports import run_report
from .kept_rows import rows_to_keep

_WARM_UP = 1  # steps that are slower than the rest


@dataclass(frozen=True)
class Run:
    """A finished training run. `losses` are per target token, one a step that was not skipped; memory in bytes.

    `published_step` is the step whose adapter was published: the best one where there was evaluation, else the last.
    `eval_loss`, `perplexity` and `accuracy` are of that step.
    """

    id: str
    folder: Path
    adapter: Path  # or the whole model, after a full fine-tune
    recipe: Recipe
    losses: tuple[float, ...]
    tokens: int
    targets: int
    seconds: float
    peak_memory: int
    skipped: int
    published_step: int
    eval_loss: float | None
    perplexity: float | None
    accuracy: float | None  # of preferences, as `Evaluated` has it
    counts: Mapping[str, Any]  # what was read, cut, dropped and left out, as the plan counts it
    base_loss: float | None = None  # of held-out rows before training
    against_base: str | None = None  # what training did to it, in words

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "folder": str(self.folder), "adapter": str(self.adapter)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Run:
        """What `as_dict` made."""
        places = {name: Path(told[name]) for name in ("folder", "adapter")}
        return cls(**{**told, **places, "recipe": Recipe(**told["recipe"]), "losses": tuple(told["losses"])})


@dataclass(frozen=True)
class TrainingRequest:
    """The arguments of `Trainer.train`, and its settings."""

    data: Data
    config: TrainConfig
    resume: bool | str = False
    allow_changes: bool = False
    check: Callable[[lock_file.Lock], None] | None = None
    start: str | Path | None = None
    merge_with: str | Path | None = None


@dataclass(frozen=True)
class TrainingJob:
    """What to train, on which rows, and with what."""

    request: TrainingRequest
    plan: Plan
    prepared: Prepared
    held_out: Sequence[Example]
    rail: Rail
    tokenizer: ChatTokenizer
    to_ask: Sequence[Conversation] = ()  # held-out rows with tools or thoughts, as messages
    start: Path | None = None  # the adapter to go on from, in place of a fresh one

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What must be the same for a run to be continued, besides its recipe."""
        began = {"adapter that it began with": digest(self.start / WEIGHTS)} if self.start else {}
        return began | {
            "data": self.prepared.report.sha256,
            "template": self.prepared.contract.template_sha256,
            "base": locate.fingerprint(self.plan.base),
            "evaluation data": self.plan.data.get("evaluation_sha256", ""),
        }


def carry_out(work: TrainingJob, recording: Recording, notes: Sequence[str], signals: Signals) -> Run:
    """Train, publish, and record the result. `notes` are told once training has begun. Raises what the loop raises."""
    run = recording.run
    recording.begin()
    record = Measurements(run, work.plan, recording.watch)
    for name in ("run.json", "samples.json", "training-rows.json", HELD_OUT_FILE, "lora", "model"):
        sweep(run.path, name)
    run.write_samples(work.prepared.samples)
    run.write_training_rows(rows_to_keep(work.prepared))
    run.write_held_out(list(work.to_ask))
    run.write(preflight=work.plan.preflight.as_dict())
    record(Planned(0, work.plan.preflight.message()))
    losses = trimmed(work.prepared.report)
    if losses:
        record(losses)
    opened, team = _open(work), work.rail.join()
    run.write(status="running", error=None, opened=dataclasses.asdict(opened), counts=work.plan.data)
    if opened.card and opened.computed_by:
        record(Opened(0, opened.device, opened.computed_by))
    for note in (*work.plan.remarks, *notes):
        record(Warned(0, note))
    _measure_before(work, run, record)
    state, step = _train(work, run, record, signals, opened.card)
    contract, mode = work.prepared.contract, work.plan.recipe.mode
    if team.size > 1:
        work.rail.collect()
    adapter = all_agree(team, lambda: publish(work.rail, run, work.plan.base, contract, step, mode))
    _measure_after(work, run, record, step)
    result = _result(work, run, adapter, state, step)
    try:
        recording.finished(weights=weights_in(adapter), **_summary(result))
    except (DiskFull, OutputUnusable) as error:
        error.kept = str(adapter)
        raise
    team.gather(result.as_dict())
    record.remember()
    _ask(work, run, signals)
    return result


def _measures_rows(work: TrainingJob) -> bool:
    """Whether single held-out rows can be measured by one process: not where others have a share of the weights."""
    return bool(work.held_out) and work.plan.recipe.method == "sft" and work.rail.join().size == 1


def _measure_before(work: TrainingJob, run: RunFolder, watch: Watch) -> None:
    """Step 0, to compare with: once a run, however often it is resumed."""
    if not _measures_rows(work) or run.read().get("rows_before"):
        return
    found = row_losses(work.rail, work.held_out)
    if found:
        run.write(rows_before=found.as_dict())
        perplexity = math.exp(min(found.mean, 700.0))
        watch(Evaluated(0, found.mean, perplexity, int(sum(found.tokens)), best=False))


def _measure_after(work: TrainingJob, run: RunFolder, watch: Watch, step: int) -> None:
    """The published weights on the same rows. A result that is worse than what it began with is told."""
    if _measures_rows(work) and (found := row_losses(work.rail, work.held_out)):
        run.write(rows_after=found.as_dict())
    gained = improvement(run.read())
    advice = "lower --learning-rate, or train on more and better rows."
    if gained and gained.is_worse:
        before, after = gained.before.estimate, gained.after.estimate
        told = f"the result is worse than the model before training: loss {after:.4g} on held-out rows, it was"
        watch(Warned(step, f"{told} {before:.4g} ({gained.verdict}); {advice}"))
        return
    losses = [event["loss"] for event in read_events(run.path) if event["event"] == Stepped.__name__ and event["loss"]]
    if gained or len(losses) < 2:
        return
    few = max(1, len(losses) // 10)
    first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
    if last > first:
        watch(Warned(step, f"the training loss rose, from {first:.4g} to {last:.4g}; {advice}"))


def carry_along(work: TrainingJob, run: RunFolder, signals: Signals) -> Run:
    """The part of a process that does not lead: it computes, writes nothing, and returns what rank 0 made of it."""
    opened, team = _open(work), work.rail.join()
    _train(work, run, silent, signals, opened.card)
    work.rail.collect()
    all_agree(team, no_op)  # published
    return Run.from_dict(team.gather(None)[0])


def _open(work: TrainingJob) -> ModelInfo:
    recipe, name = work.plan.recipe, locate.lasting_name(work.plan.base)
    return work.rail.open(Job(work.plan.base, work.start, recipe, recipe.dtype, name))


def _train(work: TrainingJob, run: RunFolder, watch: Watch, signals: Signals, card: str) -> tuple[State, int]:
    """The state after the last step, and the step to publish, which the rail is brought to."""
    signals.at_once = False  # from here on there is something to finish
    recipe = work.plan.recipe
    minutes = recipe.checkpoint_minutes
    checkpoints = CheckpointManager(run.checkpoints, recipe.checkpoint_every, recipe.keep_checkpoints, minutes=minutes)
    held_out = Batches(work.held_out, recipe.seed, method=recipe.method).whole() if work.held_out else None
    batches = Batches(work.prepared.examples, recipe.seed, work.prepared.packed, recipe.method)
    sample = _sampler(work, watch) if recipe.sample_every else no_samples
    context = LoopContext(held_out, nvml(card) if card else None, signals, WishReader(run.path), sample)
    state = run_loop(work.rail, batches, recipe, checkpoints, watch, context)
    if state.best_step in (-1, state.step):
        return state, state.step
    if checkpoints.restore_step(state.best_step, work.rail):
        return state, state.best_step
    watch(Warned(state.step, f"the best checkpoint, of step {state.best_step}, is damaged; the last one is published."))
    return state, state.step


def _ask(work: TrainingJob, run: RunFolder, signals: Signals) -> None:
    """Keep answers to held-out rows, or to training rows where none are held out, for the report.

    After a full fine-tune the model as it was is gone, and shared weights would need the other processes.
    """
    recipe, rail, decode = work.plan.recipe, work.rail, work.tokenizer.decode
    if recipe.mode == "full" or recipe.shared_out:
        return
    source, questions = _questions(work)
    stop = work.tokenizer.stop_ids(work.prepared.contract)
    limit = run_report.LIMIT
    base, tuned = (answering(rail, decode, stop, limit, adapter=adapter, to_read=True) for adapter in (False, True))
    run_report.ask(run, source, questions, (base, tuned), lambda: signals.stop_requested)


def _sampler(work: TrainingJob, watch: Watch) -> Callable[[int], None]:
    """Answers a few questions by what is trained so far, and tells each. Shared weights would need all processes."""
    if work.plan.recipe.shared_out or work.rail.join().rank:
        return no_samples
    stop = work.tokenizer.stop_ids(work.prepared.contract)
    _, questions = _questions(work)
    answer = answering(work.rail, work.tokenizer.decode, stop, run_report.LIMIT, to_read=True)

    def sample(step: int) -> None:
        for question in questions[: run_report.PROMPTS]:
            watch(Sampled(step, question.asked or question.text, answer(question), question.expected))

    return sample


def _questions(work: TrainingJob) -> tuple[str, list[Question]]:
    """Where the questions are from, in words, and the questions: of held-out rows, or else of training rows."""
    recipe, decode = work.plan.recipe, work.tokenizer.decode
    stop = work.tokenizer.stop_ids(work.prepared.contract)
    good = work.held_out[:: 2 if recipe.method in PAIRED else 1]
    source, spans = "held out", [(*last_answer(row), row.tokens) for row in good if row.desirable]
    if not spans:
        source = "from the training rows"
        spans = [(len(sample.prompt), len(sample.tokens), sample.tokens) for sample in work.prepared.samples]
    # An answer that begins at 1 has no question before it.
    questions = [question_before(*span, decode, stop) for span in spans if span[0] > 1]
    return source, [dataclasses.replace(one, asked=asked(work.tokenizer, one.text)) for one in questions]


def _result(work: TrainingJob, run: RunFolder, adapter: Path, state: State, step: int) -> Run:
    """The result, with the losses of all the sittings of this run."""
    events = list(read_events(run.path))
    losses = tuple(event["loss"] for event in events if event["event"] == "Stepped")
    evaluations = [event for event in events if event["event"] == "Evaluated" and event["step"] == step]
    evaluation = evaluations[-1] if evaluations else {}
    gained = improvement(run.read())
    return Run(
        id=run.id,
        folder=run.path,
        adapter=adapter,
        recipe=work.plan.recipe,
        losses=losses,
        tokens=state.tokens,
        targets=state.trained_tokens,
        seconds=state.seconds,
        peak_memory=work.rail.memory().peak,
        skipped=state.skipped,
        published_step=step,
        eval_loss=evaluation.get("loss"),
        perplexity=evaluation.get("perplexity"),
        accuracy=evaluation.get("accuracy"),
        base_loss=gained.before.estimate if gained else None,
        against_base=gained.verdict if gained else None,
        counts=work.plan.data,
    )


def _summary(run: Run) -> dict[str, Any]:
    """What the record keeps of a result."""
    elsewhere = ("id", "folder", "adapter", "recipe", "losses")
    kept = {name: value for name, value in vars(run).items() if name not in elsewhere}
    return {"loss": run.losses[-1] if run.losses else None, **kept}


class Measurements:
    """A `watch` that notes the first peak of memory and the speed, then passes on. It never stops the training."""

    def __init__(self, run: RunFolder, plan: Plan, watch: Watch) -> None:
        self._run, self._plan, self._watch = run, plan, watch
        self._speeds: list[float] = []

    def __call__(self, event: Event) -> None:
        self._watch(event)
        if isinstance(event, Stepped):
            if not self._speeds:
                self._note_peak(event.memory.peak)
            self._speeds.append(event.tokens / event.seconds if event.seconds else 0.0)

    def remember(self) -> None:
        """Keep the speed of this run for the next one's estimate of time."""
        speeds = self._speeds[_WARM_UP:]
        with suppress(OSError, BackpropagateError):
            plan = self._plan
            kind = speed.kind_of(plan.device, locate.lasting_name(plan.base), plan.recipe)
            speed.remember(kind, speeds)

    def _note_peak(self, peak: int) -> None:
        expected = self._plan.preflight.memory
        with suppress(OSError, BackpropagateError):
            self._run.write(first_step={"peak_memory": peak, "expected": expected.total if expected else None})
