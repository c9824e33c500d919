"""The commands train, resume and estimate-vram."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bp_core.config import TrainConfig
from bp_core.errors import BadValue
from bp_core.process_group import launch_env
from bp_core.settings import Panel, Trait, names
from bp_runs.run_folder import NEWEST, settings_of

from ..replay import resume as resume_run
from ..trainer import Trainer
from ..training.planning import outlook
from ..training.prepare import to_resume
from ..training.run import Run
from . import tables
from .command import Resumable
from .options import NAME, DryRun, Json, option, run_ids, with_options

_EXTEND = "Extend it to so many steps; from there the learning rate is that of the longer run."
_ALLOW = "Go on although data, model or settings changed."

_NOT_ESTIMATED = set(names(TrainConfig)) - set(names(TrainConfig, Trait.NEEDS))


@with_options(TrainConfig, parsed_by=Resumable)
def train(
    settings: dict[str, Any],
    given: frozenset[str],
    data: Annotated[
        str | None,
        typer.Option(
            help="The examples: a file, a folder, or owner/name:split on the hub. With --resume: default the run's.",
            rich_help_panel=Panel.DATA,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help=f"Go on from this adapter, in place of a fresh one. {NAME}",
            rich_help_panel=Panel.ADAPTER,
            autocompletion=run_ids,
        ),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            help="Go on with a run: its id or the beginning of it, or nothing for the newest unfinished.",
            rich_help_panel=Panel.UNATTENDED,
            autocompletion=run_ids,
        ),
    ] = "",
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help=_ALLOW, rich_help_panel=Panel.UNATTENDED)
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Train a LoRA adapter, or with --mode full all weights, on a file of examples."""
    trainer = Trainer(**{name: settings[name] for name in given})
    if data is None:
        data = _data_of_run(resume, trainer.config)
    if dry_run and _leads():
        plan = trainer.plan(data)
        tables.print_json(plan.as_dict()) if json else tables.show_plan(plan)
    if not dry_run:
        _show(trainer.train(data, resume=resume or False, allow_changes=allow_changes, start=start), json)


def resume(
    run: Annotated[str, typer.Argument(help=NAME, autocompletion=run_ids)] = NEWEST,
    output: Annotated[str | None, typer.Option(help="The output folder that holds it. Default: the run's.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(help=_EXTEND, min=1),
    ] = None,
    allow_changes: Annotated[bool, typer.Option("--allow-changes", help=_ALLOW)] = False,
    json: Json = False,
) -> None:
    """Go on with a run as it was begun: the newest unfinished one, or the one that is named.

    On the processor it was begun on, it ends with the same bytes as without the interruption.
    """
    _show(resume_run(run, output, steps=steps, allow_changes=allow_changes), json)


@with_options(TrainConfig, *_NOT_ESTIMATED)
def estimate_vram(
    settings: dict[str, Any],
    model: Annotated[str, option(TrainConfig, "model", typer.Argument)],
    memory: Annotated[
        float | None,
        typer.Option(
            help="Judge for a card with so many GiB free, not for this machine.",
            min=0.1,
            rich_help_panel=Panel.SPEED,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say what training a model would need in memory, disk and time; nothing but its config.json is loaded."""
    found = outlook(TrainConfig(model=model, **settings), memory)
    tables.print_json(found.as_dict()) if json else tables.show_outlook(found)


def _data_of_run(resume: str, config: TrainConfig) -> str:
    """What the run to go on with was trained on. Raises BadValue where there is none to go on with."""
    if not resume:
        raise BadValue("no data is given (--data).", fix="Name a file of examples: --data my_data.jsonl")
    return settings_of(to_resume(resume, Path(config.output).resolve()))[1]


def _show(run: Run, json: bool) -> None:
    if _leads():
        tables.print_json(run.as_dict()) if json else tables.show_run(run)


def _leads() -> bool:
    """Of several processes that a launcher started one talks."""
    return launch_env().rank == 0
