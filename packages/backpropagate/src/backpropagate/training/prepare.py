"""From settings and data to what there is to do, and to the record that a run begins with. Nothing is trained here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bp_core.backends import choose_rail
from bp_core.config import DataConfig, TrainConfig
from bp_core.contract import Contract
from bp_core.environment import variables_of
from bp_core.errors import BadValue, MergeRefused, NothingToResume
from bp_core.events import Notify, Watch
from bp_core.examples import Example
from bp_core.folders import home, writable_folder
from bp_core.process_group import launch_env
from bp_core.rail import Probe, Rail
from bp_core.settings import names
from bp_data import ChatTokenizer, prepare
from bp_data.masking.reasoning import Limits
from bp_data.preparing.conversations import among
from bp_data.preparing.hold_out import hold_out
from bp_data.preparing.losses import trimmed
from bp_data.reading.files import lasting, require
from bp_plan.defaults import MachineSettings, for_machine
from bp_plan.plan import Plan
from bp_runs import Claim, lock_file, run_folder, tracker_processes
from bp_runs.recorder import Recording
from bp_runs.run_folder import RunFolder
from bp_runs.versions import versions

from ..doctor.card import cuda_probe, idle_card
from ..hints import resume_command
from ..models import locate
from ..models.compatibility import refuse_by_size, refuse_misfits, refuse_quantised, refuse_unknown_tokens
from ..models.targets import Artifact
from ..reports import run_report
from .kept_rows import HELD_OUT_KEPT
from .planning import device_info, planned, sizes_of
from .remarks import remarks
from .run import TrainingJob, TrainingRequest

NO_MERGE_FIX = "Use one --tools-template and one --tool-schema for all stages, and rows of one kind."


@dataclass(frozen=True)
class TrainingSetup:
    """What to train and where: the rail, its device, and the settings as this machine decides them."""

    request: TrainingRequest
    rail: Rail
    probe: Probe
    machine: MachineSettings


def choose(request: TrainingRequest) -> TrainingSetup:
    """Where to train; looked at after what costs nothing to refuse, for it loads a framework."""
    config = request.config
    if request.data is None:
        raise BadValue("no data is given.", fix="Give a file, a folder, a name on the hub, or rows.")
    require(request.data)
    if config.eval_data:
        require(config.eval_data)
    if config.shard and launch_env().size == 1:
        fix = "Start it through a launcher: torchrun --nproc-per-node 2 -m backpropagate train …; or leave shard out."
        raise BadValue("shard shares weights out over several processes, and this is one by itself.", fix=fix)
    tracker_processes.chosen(config.report_to)
    backend, rail, probe = choose_rail(config.backend)
    machine = for_machine(config, device_info(config, backend, rail, probe))
    variables = {name: f"from {variable}" for name, variable in variables_of("train", config).items()}
    machine = replace(machine, why={**variables, **machine.why})
    rail.check(machine.config)
    return TrainingSetup(request, rail, probe, machine)


def reading(config: TrainConfig, notify: Notify) -> dict[str, Any]:
    """The arguments of `bp_data.prepare` that the settings decide."""
    of_data = {name: getattr(config, name) for name in names(DataConfig)}
    return {
        "max_length": config.length,
        "reading": DataConfig(**of_data),
        "text_overlap": config.text_overlap,
        "train_on": config.train_on,
        "method": config.method,
        "tool_schema": config.tool_schema,
        "traces": Limits(config.min_trace, config.max_trace) if config.reasoning_trace else None,
        "cache": home() / "cache" / "data",
        "on_progress": notify,
    }


def prepared_job(setup: TrainingSetup, notify: Notify, *, weights: bool = True) -> TrainingJob:
    """Read the data, and plan what to do with them. Without `weights` those of the base are not fetched.

    What cannot fit is refused before they are. Raises DoesNotFit, and what data and model are refused for.
    """
    config = setup.machine.config
    refuse_by_size(config)
    base = locate.locate(config.model, notify, weights=False)
    refuse_quantised(config, base)
    to_fetch = weights and locate.is_snapshot(base)
    if not to_fetch:
        refuse_misfits(config, base, weights=weights)
    tokenizer = ChatTokenizer.open(base).with_tools(config.tools_template)
    how = reading(config, notify)
    prepared = prepare(setup.request.data, tokenizer, samples=config.samples, **how)
    held_out: Sequence[Example] = []
    conversations = prepared.conversations
    evaluation = {}
    if config.held_out:
        prepared, held_out = hold_out(prepared, config.held_out, config.seed)
    elif config.eval_data:
        others = prepare(config.eval_data, tokenizer, evaluating=True, **how)
        held_out, evaluation = others.examples, {"evaluation_sha256": others.report.sha256}
        conversations = others.conversations
    refuse_unknown_tokens(base, tokenizer, prepared.examples.tokens)
    if config.packing:
        prepared = prepared.packing(config.length)
    losses = trimmed(prepared.report)
    evaluation |= {"summary": losses.message} if losses else {}
    counts = prepared.report.as_dict() | evaluation | {"evaluation_examples": len(held_out)}
    slowdown = setup.rail.slowdown(config.dtype)
    plan, unfit = planned(setup.machine, sizes_of(prepared), base, setup.probe.device, counts, slowdown)
    if unfit and weights and not setup.request.resume:  # a run that was begun has found its way
        raise unfit
    if to_fetch:
        plan = replace(plan, base=locate.locate(config.model, notify))
        refuse_misfits(config, plan.base)
    about = remarks(setup.request.config, plan.recipe, prepared, held_out, tokenizer, locate.description(base))
    plan = replace(plan, remarks=(*_unused_card(setup), *plan.remarks, *about), contract=prepared.contract)
    to_ask = among(conversations, held_out, HELD_OUT_KEPT)
    return TrainingJob(setup.request, plan, prepared, held_out, setup.rail, tokenizer, to_ask)


def _unused_card(setup: TrainingSetup) -> Iterator[str]:
    """A card that stands idle, where the processor was not asked for."""
    if setup.request.config.backend == "auto" and setup.machine.config.backend == "cpu":
        idle = idle_card(cuda_probe())
        if idle:
            yield idle


def begin(setup: TrainingSetup, notify: Notify, claims: ExitStack) -> tuple[TrainingJob, RunFolder | None, list[str]]:
    """What to do; the run to resume, held through `claims`, if one was asked for; and notes on what changed since.

    Raises what `Trainer.train` refuses; nothing of a new run is written.
    """
    request = setup.request
    output = writable_folder(Path(request.config.output).resolve())
    run = to_resume(request.resume, output) if request.resume else None
    if run and run.path.parent.parent != output:
        fix = f"Go on with: {resume_command(run.id, run.path.parent.parent)}"
        raise NothingToResume(f"run {run.id} is not of this folder.", where=str(output), fix=fix)
    if run:
        claims.enter_context(Claim(run.path))
    work = prepared_job(setup, notify)
    start = request.start or (run.read().get("start") if run else None)
    work = replace(work, start=beginning(start, work.plan))
    if before := _contract_before(work, run):
        work = replace(work, prepared=work.prepared.going_on_from(before, work.tokenizer))
    if request.check:
        request.check(lock(work))
    if run is None:
        return work, None, []
    recipe, changes = run_folder.continued(run, work.plan.recipe, work.facts, request.allow_changes)
    work = replace(work, plan=replace(work.plan, recipe=recipe))
    notes = [f"going on although {change}." for change in changes]
    return work, run, notes + lock_file.moved(run.path, lock(work))


def _contract_before(work: TrainingJob, run: RunFolder | None) -> Contract | None:
    """The contract of the adapter that the run goes on from, or that its result is merged with.

    Raises MergeRefused where the two cannot be one.
    """
    merged_with = work.request.merge_with or (run.read().get("merge_with") if run else None)
    folder = work.start or (Path(merged_with) if merged_with else None)
    before = Contract.read(folder) if folder else None
    if before and merged_with and (wrong := before.conflicts(work.prepared.contract)):
        raise MergeRefused(f"{'; '.join(wrong)}.", where=str(folder), fix=NO_MERGE_FIX)
    return before


def to_resume(name: bool | str, output: Path, *, extends: bool = False) -> RunFolder:
    """The run to go on with: the newest unfinished one, or that of a name. Where it `extends` a run, a finished one
    will do. Raises NothingToResume, TargetNotFound."""
    if name in (True, run_folder.NEWEST):
        return run_folder.newest_unfinished(output, or_finished=extends)
    return Artifact.find(str(name), output).require_run()


def run_settings(run: RunFolder, given: Mapping[str, Any], output: str) -> TrainConfig:
    """The settings that a run was begun with, and in their place those that are `given` now."""
    known = names(TrainConfig)
    begun = {name: value for name, value in run_folder.begun_settings(run).items() if name in known}
    if "epochs" in given and "steps" not in given:
        begun["steps"] = None  # which would win over the epochs
    if launch_env().size == 1:
        begun["shard"] = None  # a run that several processes began may be gone on with by one
    changes = {name: value for name, value in given.items() if (name, value) != ("mode", "auto")}
    return TrainConfig(**begun | changes | {"output": output})


def beginning(start: str | Path | None, plan: Plan) -> Path | None:
    """The adapter to go on from. Raises AdapterUnusable, and BadValue where its settings are not those of the plan."""
    if start is None:
        return None
    source, recipe = Artifact.find(start), plan.recipe
    folder = source.require_folder()
    if recipe.mode == "full" or source.is_whole:
        raise BadValue("start is an adapter to go on from, which mode full has none of.", where=str(folder))
    wanted = {"r": recipe.rank, "lora_alpha": recipe.alpha, "use_rslora": recipe.rslora, "use_dora": recipe.dora}
    given = {name: source.adapter_config.get(name) for name in wanted}
    wrong = [f"{name} {given[name]} is not {value}" for name, value in wanted.items() if given[name] != value]
    if wrong:
        fix = "Set rank, alpha, rslora and dora as they are in the adapter."
        raise BadValue(f"the adapter to go on from has other settings: {'; '.join(wrong)}.", where=str(folder), fix=fix)
    return folder


def write_down(
    work: TrainingJob, run: RunFolder | None, watching: Callable[[str], Watch], claims: ExitStack
) -> Recording:
    """The folder of a run that begins or goes on, with what it will do; held and recorded through `claims`.

    `watching` gives what shows the events of the run of an id.
    """
    if run:
        run.write(recipe=dataclasses.asdict(work.plan.recipe), facts=work.facts)
    else:
        run = run_folder.create(Path(work.request.config.output).resolve(), **record(work))
        claims.enter_context(Claim(run.path))
    trackers = tracker_processes.chosen(work.request.config.report_to)
    resume = resume_command(run.id, run.path.parent.parent)
    recording = Recording(run, trackers, watching(run.id), run_report.write, resume)
    claims.enter_context(recording)
    lock(work, run.id).write(run.path)
    return recording


def record(work: TrainingJob) -> dict[str, Any]:
    """What a run is remembered by: enough to go on with it in another folder, without being told anything again."""
    config = work.request.config
    chosen = dataclasses.asdict(config)
    if config.eval_data:
        chosen["eval_data"] = lasting(config.eval_data)
    record = {
        "recipe": dataclasses.asdict(work.plan.recipe),
        "facts": work.facts,
        "settings": chosen,
        "data": lasting(work.request.data),
        "base": str(work.plan.base),
    }
    merge_with = work.request.merge_with
    record |= {"merge_with": str(merge_with)} if merge_with else {}
    return record | ({"start": str(work.start)} if work.start else {})


def lock(work: TrainingJob, run: str = "") -> lock_file.Lock:
    """The run.lock of a run; its id is "" as long as it has none."""
    return lock_file.Lock(
        run=run,
        data=lasting(work.request.data),
        settings=lock_file.pinned(work.request.config, work.plan.recipe),
        recipe=dataclasses.asdict(work.plan.recipe),
        hashes=work.facts | {"tokenizer": lock_file.tokenizer_digest(work.plan.base)},
        packages=versions(),
        hardware=lock_file.hardware(work.plan.device, work.rail.probe()),
    )
