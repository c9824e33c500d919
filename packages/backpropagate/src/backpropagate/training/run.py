"""One run of training: from an opened model to a published adapter and a record that says how it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.choices import PAIRED
from bp_core.events import Event, Planned, Warned, Watch
from bp_core.examples import Example
from bp_core.folders import digest, sweep
from bp_core.process_group import all_agree, no_op
from bp_core.rail import Job, ModelInfo, Rail
from bp_core.recipe import Recipe
from bp_data import Batches, ChatTokenizer, Prepared
from bp_data.preparing.losses import trimmed
from bp_eval.questions import answer_text, last_answer
from bp_plan.plan import Plan
from bp_resilience import CheckpointManager, LoopContext, Signals, State, nvml
from bp_resilience import train as run_loop
from bp_runs import read_events
from bp_runs.recorder import Recording
from bp_runs.run_folder import RunFolder

from ..models import locate
from ..models.published import WEIGHTS, publish, weights_in
from ..reports import run_report
from .measure import Measuring


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
    data: Mapping[str, Any]  # what was read, cut, dropped and left out, as the plan counts it

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "folder": str(self.folder), "adapter": str(self.adapter)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Run:
        """What `as_dict` made."""
        places = {name: Path(told[name]) for name in ("folder", "adapter")}
        return cls(**{**told, **places, "recipe": Recipe(**told["recipe"]), "losses": tuple(told["losses"])})


@dataclass(frozen=True)
class TrainingJob:
    """What there is to do, and what with."""

    plan: Plan
    prepared: Prepared
    held_out: Sequence[Example]
    rail: Rail
    tokenizer: ChatTokenizer
    trackers: Sequence[str]
    start: Path | None = None  # the adapter to go on from, in place of a fresh one

    @property
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
    record = Measuring(run, work.plan, recording.watch)
    for name in ("run.json", "samples.json", "lora", "model"):
        sweep(run.path, name)
    run.write_samples(work.prepared.samples)
    run.write(preflight=work.plan.preflight.as_dict())
    record(Planned(0, work.plan.preflight.says()))
    losses = trimmed(work.prepared.report)
    if losses:
        record(losses)
    opened, team = _open(work), work.rail.join()
    run.write(status="running", error=None, opened=dataclasses.asdict(opened), counts=work.plan.data)
    for note in (*work.plan.remarks, *notes):
        record(Warned(0, note))
    signals.at_once = False  # from here on there is something to finish
    state, checkpoints = _train(work, run, record, signals, opened.card)
    step = _best(state, checkpoints, work.rail, record)
    contract, mode = work.prepared.contract, work.plan.recipe.mode
    if team.size > 1:
        work.rail.collect()
    adapter = all_agree(team, lambda: publish(work.rail, run, work.plan.base, contract, step, mode))
    result = _result(work, run, adapter, state, step)
    recording.finished(weights=weights_in(adapter), **_summary(result))
    team.gather(result.as_dict())
    record.remember()
    run_report.ask(
        run, _questions(work), lambda prompt, adapter: _answer(work, prompt, adapter), lambda: signals.stop_requested
    )
    return result


def carry_along(work: TrainingJob, run: RunFolder, signals: Signals) -> Run:
    """The part of a process that does not lead: it computes, writes nothing, and returns what rank 0 made of it."""

    def silent(event: Event) -> None:
        return None

    opened, team = _open(work), work.rail.join()
    signals.at_once = False
    state, checkpoints = _train(work, run, silent, signals, opened.card)
    _best(state, checkpoints, work.rail, silent)
    work.rail.collect()
    all_agree(team, no_op)  # published
    return Run.from_dict(team.gather(None)[0])


def _open(work: TrainingJob) -> ModelInfo:
    recipe, name = work.plan.recipe, locate.lasting_name(work.plan.base)
    job = Job(work.plan.base, work.start, recipe, recipe.dtype, name)
    return work.rail.open(job)


def _train(
    work: TrainingJob, run: RunFolder, watch: Watch, signals: Signals, card: str
) -> tuple[State, CheckpointManager]:
    recipe = work.plan.recipe
    minutes = recipe.checkpoint_minutes
    checkpoints = CheckpointManager(run.checkpoints, recipe.checkpoint_every, recipe.keep_checkpoints, minutes=minutes)
    method = recipe.method
    held_out = Batches(work.held_out, recipe.seed, method=method).whole() if work.held_out else None
    batches = Batches(work.prepared.examples, recipe.seed, work.prepared.packed, method)
    context = LoopContext(held_out, nvml(card) if card else None, signals)
    return run_loop(work.rail, batches, recipe, checkpoints, watch, context), checkpoints


def _questions(work: TrainingJob) -> list[run_report.Question]:
    """Prompts for the report with the answers in the data: held-out ones where there are some.

    None after a full fine-tune: the model as it was before cannot be asked any more; nor where other processes, which
    would have to take part, have a share of the weights.
    """
    recipe = work.plan.recipe
    if recipe.mode == "full" or recipe.shared_out:
        return []
    good = work.held_out[:: 2 if work.plan.recipe.method in PAIRED else 1]
    rows = [(example.tokens, *last_answer(example)) for example in good if example.desirable]
    where = "held out" if rows else "from the training rows"
    rows = rows or [(sample.tokens, len(sample.prompt), len(sample.tokens)) for sample in work.prepared.samples]
    decode, stop = work.tokenizer.decode, work.tokenizer.stop_ids(work.prepared.contract)
    return [
        run_report.Question(where, tokens[:start], decode(tokens[:start]), answer_text(tokens[start:end], decode, stop))
        for tokens, start, end in rows
        if start > 1  # less is a text without a question
    ]


def _answer(work: TrainingJob, prompt: Sequence[int], adapter: bool) -> str:
    stop = work.tokenizer.stop_ids(work.prepared.contract)
    made = work.rail.generate(prompt, limit=run_report.LIMIT, stop=stop, adapter=adapter)
    return answer_text(made, work.tokenizer.decode, stop)


def _best(state: State, checkpoints: CheckpointManager, rail: Rail, watch: Watch) -> int:
    """Bring the rail to the step to publish: that of the best evaluation, if there was one."""
    if state.best_step in (-1, state.step):
        return state.step
    if checkpoints.restore_step(state.best_step, rail):
        return state.best_step
    watch(Warned(state.step, f"the best checkpoint, of step {state.best_step}, is damaged; the last one is published."))
    return state.step


def _result(work: TrainingJob, run: RunFolder, adapter: Path, state: State, step: int) -> Run:
    """The result, with the losses of all the sittings of this run."""
    events = list(read_events(run.path))
    losses = tuple(event["loss"] for event in events if event["event"] == "Stepped")
    looks = [event for event in events if event["event"] == "Evaluated" and event["step"] == step]
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
        eval_loss=looks[-1]["loss"] if looks else None,
        perplexity=looks[-1]["perplexity"] if looks else None,
        accuracy=looks[-1].get("accuracy") if looks else None,
        data=work.plan.data,
    )


def _summary(run: Run) -> dict[str, Any]:
    """What the record keeps of a result."""
    kept = [*("seconds", "peak_memory", "tokens", "targets", "skipped", "published_step")]
    kept += ("eval_loss", "perplexity", "accuracy")
    return {"loss": run.losses[-1] if run.losses else None, **{name: getattr(run, name) for name in kept}}
