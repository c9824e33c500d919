"""The verb multi-run: calls the package and shows what came of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bp_core.config import TrainConfig
from bp_core.errors import BadValue
from bp_core.settings import settings
from bp_multirun.config import MultiRunConfig

from ..hints import command, near
from ..multi_run import report
from ..multi_run.session import MultiRun, begun, multi_run, plans, settings_of
from ..multi_run.stage_data import sources
from ..reports import document
from ..trainer import Trainer
from . import tables
from .quiet import quiet_libraries


def run(values: Mapping[str, Any], data: Sequence[str], resume: str, *, dry_run: bool, json: bool) -> None:
    quiet_libraries()
    training, merging = settings_of(values)
    if resume:
        known_training, known_merging, known_data = begun(resume)
        _refuse_others(values, known_training | known_merging, data)
        training, merging, data = known_training, known_merging, known_data
    config, multi = TrainConfig(**training), MultiRunConfig(**merging)
    if not data:
        raise BadValue("no data is given.", fix="Name a file with --data; each further --data is a further stage.")
    if dry_run:
        _show_plans(config, multi, data, json)
        return
    done = multi_run(config, multi, data, Trainer)
    tables.print_json(done.as_dict()) if json else _show(done)
    done.require()


def _refuse_others(values: Mapping[str, Any], known: Mapping[str, Any], data: Sequence[str]) -> None:
    """With --resume everything is as it was begun: an option besides would be one without effect."""
    defaults = {s.name: s.default for kind in (TrainConfig, MultiRunConfig) for s in settings(kind)}
    given = [name for name, value in values.items() if value not in (defaults[name], known[name])]
    if given or data:
        fix = "Leave it out; or give the whole command again, without --resume, to change something or add data."
        told = ", ".join([*given, *["data"] * bool(data)])
        raise BadValue(f"with resume all is as it was begun, but also set: {told}.", fix=fix)


def _show_plans(config: TrainConfig, multi: MultiRunConfig, data: Sequence[str], json: bool) -> None:
    found, notes = sources(data, multi.runs, config)
    made = plans(config, data, Trainer)
    if json:
        stages = [{"name": source.stage.name, "rows": source.count} for source in found]
        tables.print_json({"stages": stages, "notes": notes, "plans": [plan.as_dict() for plan in made]})
        return
    for source in found:
        print(f"{source.stage.name}: {source.count} rows")
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)
    for plan in made:
        tables.show_plan(plan)


def _show(done: MultiRun) -> None:
    console = Console(highlight=False)
    for block in (
        report.matrix_table(done.record),
        report.stages_table(done.record, done.config),
    ):
        console.print(_table(block))
    facts = [*report.summary_lines(done.record)]
    facts += [("adapter", near(done.adapter)), ("report", near(done.report)), ("next", command("export", done.adapter))]
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in facts:
        table.add_row(f"[bold]{name}[/]", escape(value))
    console.print(table)


def _table(block: document.Table) -> Table:
    table = Table()
    for name in block.head:
        table.add_column(escape(name), overflow="fold")
    for row in block.rows:
        table.add_row(*map(escape, row))
    return table
