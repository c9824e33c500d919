"""The command multi-run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bp_core.config import TrainConfig
from bp_core.errors import BadValue
from bp_core.settings import Panel
from bp_core.units import counted
from bp_multirun.config import MultiRunConfig

from ..hints import command, near
from ..multi_run import report
from ..multi_run.session import MultiRun, plan_session, resumed, settings_of
from ..multi_run.session import multi_run as run_stages
from ..reports import document
from ..trainer import Trainer
from . import tables
from .command import Resumable
from .options import NAME, DryRun, Json, run_ids, with_options


@with_options(TrainConfig, also=(MultiRunConfig,), parsed_by=Resumable)
def multi_run(
    settings: dict[str, Any],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="The examples of a stage; given again, those of the next. As for train.", rich_help_panel=Panel.DATA
        ),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            help=f"Go on with a session as it was begun: the one in --output, or that of a name. {NAME}",
            rich_help_panel=Panel.UNATTENDED,
            autocompletion=run_ids,
        ),
    ] = "",
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Train stage after stage and merge them into one adapter; again with one more --data it goes on from there."""
    training, merging = settings_of(settings)
    if resume:
        training, merging, data = resumed(resume, settings, data or [])
    config, multi = TrainConfig(**training), MultiRunConfig(**merging)
    if not data:
        raise BadValue("no data is given.", fix="Name a file with --data; each further --data is a further stage.")
    if dry_run:
        _show_plans(config, multi, data, json)
        return
    done = run_stages(config, multi, data, Trainer)
    if not json:
        _show(done)
    with tables.result(done.as_dict(), json):
        done.require()


def _show_plans(config: TrainConfig, multi: MultiRunConfig, data: Sequence[str], json: bool) -> None:
    found = plan_session(config, multi, data, Trainer)
    if json:
        tables.print_json(found.as_dict())
        return
    for source in found.sources:
        print(f"{source.stage.name}: {counted(source.count, 'row')}")
    for note in found.notes:
        print(f"Note: {note}", file=sys.stderr)
    for plan in found.plans:
        tables.show_plan(plan)


def _show(done: MultiRun) -> None:
    console = Console(highlight=False)
    console.print(_table(report.matrix_table(done.record)))
    console.print(_table(report.stages_table(done.record, done.config)))
    lines = report.summary_lines(done.record)
    lines += [("adapter", near(done.adapter)), ("report", near(done.report)), ("next", command("export", done.adapter))]
    tables.print_facts(console, *lines)


def _table(block: document.Table) -> Table:
    table = Table()
    for name in block.head:
        table.add_column(escape(name), overflow="fold")
    for row in block.rows:
        table.add_row(*map(escape, row))
    return table
