"""From settings and data to what there is to do, and to the record that a run begins with. Nothing is trained here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bp_core.backends import choose_rail
from bp_core.config import TrainConfig
from bp_core.errors import BadValue
from bp_core.events import Notify
from bp_core.examples import Example
from bp_core.folders import home, writable_folder
from bp_core.process_group import launch_env
from bp_core.rail import Probe, Rail
from bp_data import ChatTokenizer, prepare
from bp_data.masking.reasoning import Limits
from bp_data.preparing.hold_out import hold_out
from bp_data.reading.files import Data, columns_in, lasting, require
from bp_plan.defaults import optimizer, sharing
from bp_runs import Claim, lock_file, run_folder, tracker_processes
from bp_runs.run_folder import RunFolder
from bp_runs.versions import versions

from ..models import locate
from ..models.compatibility import refuse_misfits
from ..models.published import beginning
from .planning import Place, planned
from .run import TrainingJob, resumable

Check = Callable[[lock_file.Lock], None]
Chosen = tuple[str, Rail, Probe]  # a rail's name, the rail, its device


@dataclass(frozen=True)
class TrainingRequest:
    """What a caller of `Trainer.train` asks for; the fields are its arguments."""

    data: Data
    config: TrainConfig
    resume: bool | str
    allow_changes: bool
    check: Check | None
    start: str | Path | None


def choose(data: Data, config: TrainConfig) -> Chosen:
    """Where to train; looked at after what costs nothing to refuse, for it loads a framework."""
    require(data)
    if config.eval_data:
        require(config.eval_data)
    config = replace(config, shard=sharing(config)[0])  # what does not go with it is refused
    if config.shard and launch_env().size == 1:
        fix = "Start it through a launcher: torchrun --nproc-per-node 2 -m backpropagate train …; or leave shard out."
        raise BadValue("shard shares weights out over several processes, and this is one by itself.", fix=fix)
    tracker_processes.chosen(config.report_to)
    backend, rail, probe = choose_rail(config.backend)
    rail.check(replace(config, optimizer=optimizer(config, backend)[0]))
    return backend, rail, probe


def prepared_job(data: Data, config: TrainConfig, notify: Notify, chosen: Chosen) -> TrainingJob:
    """Read the data, and plan what to do with them. `chosen` is the rail."""
    backend, rail, probe = chosen
    trackers = tracker_processes.chosen(config.report_to)
    base = locate.locate(config.model, notify)
    refuse_misfits(replace(config, backend=backend), base)
    tokenizer = ChatTokenizer.open(base)
    settings: dict[str, Any] = {"max_length": config.length, "train_on": config.train_on, "on_progress": notify}
    settings |= {"method": config.method}
    if config.reasoning_trace:
        settings["traces"] = Limits(config.min_trace, config.max_trace)
    settings |= {"cache": home() / "cache" / "data", "columns": columns_in(config.columns)}
    prepared = prepare(data, tokenizer, samples=config.samples, **settings)
    held_out: Sequence[Example] = []
    evaluation = {}
    if config.held_out:
        prepared, held_out = hold_out(prepared, config.held_out, config.seed)
    elif config.eval_data:
        others = prepare(config.eval_data, tokenizer, **settings)
        held_out, evaluation = others.examples, {"evaluation_sha256": others.report.sha256}
    if config.packing:
        prepared = prepared.packing(config.length)
    counts = prepared.report.as_dict() | evaluation | {"evaluation_examples": len(held_out)}
    plan = planned(config, prepared, Place(backend, probe, base), counts)
    return TrainingJob(plan, prepared, held_out, rail, tokenizer, trackers)


def begin(
    request: TrainingRequest, chosen: Chosen, notify: Notify, claims: ExitStack
) -> tuple[TrainingJob, RunFolder | None, list[str]]:
    """What to do; the run to resume, held through `claims`, if one was asked for; and notes on what changed since.

    Raises what `Trainer.train` refuses; nothing of a new run is written.
    """
    output = writable_folder(Path(request.config.output).resolve())
    which = run_folder.NEWEST if request.resume is True else request.resume
    run = run_folder.find(output, which) if which else None
    if run:
        claims.enter_context(Claim(run.path))
    work = prepared_job(request.data, request.config, notify, chosen)
    start = request.start or (run.read().get("start") if run else None)
    work = replace(work, start=beginning(start, work.plan))
    if request.check:
        request.check(lock(work, request.config, request.data))
    if run is None:
        return work, None, []
    recipe, changes = run_folder.continued(run, work.plan.recipe, work.facts, request.allow_changes)
    work = replace(work, plan=replace(work.plan, recipe=recipe))
    return work, run, [f"going on although {change}." for change in changes]


def write_down(request: TrainingRequest, work: TrainingJob, run: RunFolder | None, claims: ExitStack) -> RunFolder:
    """The folder of a run that begins or goes on, with what it will do; held through `claims` until it ends."""
    if run:
        run.write(recipe=dataclasses.asdict(work.plan.recipe), facts=work.facts)
    else:
        output = Path(request.config.output).resolve()
        run = run_folder.create(output, **record(work, request.config, request.data))
        claims.enter_context(Claim(run.path))
    claims.enter_context(resumable(run))
    replace(lock(work, request.config, request.data), run=run.id).write(run.path)
    return run


def record(work: TrainingJob, config: TrainConfig, data: Data) -> dict[str, Any]:
    """What a run is remembered by: enough to go on with it in another folder, without being told anything again."""
    settings = dataclasses.asdict(config)
    if config.eval_data:
        settings["eval_data"] = lasting(config.eval_data)
    recipe, base = dataclasses.asdict(work.plan.recipe), str(work.plan.base)
    record = {"recipe": recipe, "facts": work.facts, "settings": settings, "data": lasting(data), "base": base}
    return record | ({"start": str(work.start)} if work.start else {})


def lock(work: TrainingJob, config: TrainConfig, data: Data) -> lock_file.Lock:
    """The run.lock of a run that has no id yet."""
    return lock_file.Lock(
        run="",
        data=lasting(data),
        settings=lock_file.pinned(config, work.plan.recipe),
        recipe=dataclasses.asdict(work.plan.recipe),
        hashes=work.facts | {"tokenizer": lock_file.tokenizer_digest(work.plan.base)},
        packages=versions(),
        hardware=lock_file.hardware(work.plan.device),
    )
