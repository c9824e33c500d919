"""The commands train, resume and estimate-vram."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from bp_core.config import TrainConfig
from bp_core.process_group import launch_env
from bp_core.settings import settings as settings_of
from bp_runs import run_folder
from bp_runs.run_folder import NEWEST

from ..trainer import Trainer
from ..training.planning import outlook
from ..training.run import Run
from . import tables
from .options import Json, option, parsed_by, with_options
from .quiet import quiet_libraries

_EXTEND = "Extend it to so many steps; from there the learning rate is that of the longer run."
_ALLOW = "Go on although data, model or settings changed."

# The settings on which it depends what a run will need.
_ESTIMATED = {
    "output", "backend", "lora_preset", "rank", "dropout", "dora", "target_modules", "batch_size", "micro_batch",
    "activation_checkpointing", "method", "max_length", "reasoning_trace", "packing", "dtype", "keep_checkpoints",
    "mode", "optimizer", "init", "attention",
}  # fmt: skip
_NOT_ESTIMATED = {setting.name for setting in settings_of(TrainConfig)} - _ESTIMATED


class Resumable(TyperCommand):
    """A command whose --resume may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words: list[str] = []
        for word, after in zip_longest(args, args[1:], fillvalue="--"):
            words += [word, NEWEST] if word == "--resume" and after.startswith("--") else [word]
        return super().parse_args(ctx, words)


@parsed_by(Resumable)
@with_options(TrainConfig)
def train(
    settings: dict[str, Any],
    data: Annotated[str, typer.Option(help="The examples: a file, a folder, or owner/name:split on the hub.")],
    resume: Annotated[
        str, typer.Option(help="Go on with a run: its id or the beginning of it, or nothing for the newest unfinished.")
    ] = "",
    allow_changes: Annotated[bool, typer.Option("--allow-changes", help=_ALLOW)] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    json: Json = False,
) -> None:
    """Train a LoRA adapter, or with --mode full all weights, on a file of examples."""
    quiet_libraries()
    trainer = Trainer(**settings)
    if dry_run and _leads():
        plan = trainer.plan(data)
        tables.print_json(plan.as_dict()) if json else tables.show_plan(plan)
    if not dry_run:
        _show(trainer.train(data, resume=resume or False, allow_changes=allow_changes), json)


def resume(
    run: Annotated[str, typer.Argument(help="The run's id, or the beginning of it.")] = NEWEST,
    output: Annotated[str, typer.Option(help="The output folder that holds it.")] = TrainConfig.output,
    steps: Annotated[
        int | None,
        typer.Option(help=_EXTEND, min=1),
    ] = None,
    allow_changes: Annotated[bool, typer.Option("--allow-changes", help=_ALLOW)] = False,
    json: Json = False,
) -> None:
    """Go on with a run as it was begun: the newest unfinished one, or the one that is named."""
    quiet_libraries()
    found = run_folder.find(Path(output).resolve(), run)
    settings, data = run_folder.settings_of(found)
    trainer = Trainer(**settings | {"output": output})
    _show(trainer.train(data, steps=steps, resume=found.id, allow_changes=allow_changes), json)


@with_options(TrainConfig, *_NOT_ESTIMATED)
def estimate_vram(
    settings: dict[str, Any],
    model: Annotated[str, option(TrainConfig, "model", typer.Argument)],
    memory: Annotated[
        float | None,
        typer.Option(help="Judge for a card with so many GiB free, not for this machine.", min=0.1),
    ] = None,
    json: Json = False,
) -> None:
    """Say what training a model would need in memory, disk and time; nothing but its config.json is loaded."""
    quiet_libraries()
    found = outlook(TrainConfig(model=model, **settings), memory)
    tables.print_json(found.as_dict()) if json else tables.show_outlook(found)


def _show(run: Run, json: bool) -> None:
    if _leads():
        tables.print_json(run.as_dict()) if json else tables.show_run(run)


def _leads() -> bool:
    """Of several processes that a launcher started one talks."""
    return launch_env().rank == 0
