"""The commands that look at single runs: show-run, diff-runs, replay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from bp_core.units import moment
from bp_runs import Entry, RunFolder, history
from bp_runs.notes import read_note

from ..models.targets import entry_of
from ..replay import parsed
from ..replay import replay as replay_run
from . import tables
from .options import NAME, Json, RunName, run_ids

# What tells where and when a run was, not what it is.
_OWN = ("id", "folder", "host", "pid", "pid_began", "started", "heartbeat", "exports", "recipe", "versions")
_MOMENTS = ("pid_began", "started", "heartbeat")


def show_run(run: RunName, json: Json = False) -> None:
    """Show all that the ledger knows of a run."""
    entry = entry_of(run)
    noted = {"note": read_note(RunFolder(Path(entry.folder)))}
    if json:
        tables.print_json(entry.as_dict() | noted)
        return
    for key, value in (_flat(entry) | noted).items():
        if value not in (None, ""):
            print(f"{key:24} {_text(value) if key not in _MOMENTS else moment(value)}")


def diff_runs(
    first: RunName,
    second: Annotated[str, typer.Argument(help="The other run.", autocompletion=run_ids)],
    json: Json = False,
) -> None:
    """Show two runs side by side, only what differs: recipe, data, versions, results."""
    a, b = entry_of(first), entry_of(second)
    left, right = _flat(a), _flat(b)
    names = [name for name in {**left, **right} if name not in _OWN and left.get(name) != right.get(name)]
    if json:
        tables.print_json({name: {a.id: left.get(name), b.id: right.get(name)} for name in names})
        return
    console = Console(highlight=False)
    if not names:
        console.print("These runs do not differ.")
    for name in names:  # one beneath the other: a table would cut what differs
        console.print(f"[bold]{name}[/]")
        for run, values in ((a.id, left), (b.id, right)):
            console.print(f"  {run}  {escape(_text(values.get(name)))}", soft_wrap=True)


def replay(
    run: Annotated[str, typer.Argument(help=f"{NAME} Or a run.lock file.", autocompletion=run_ids)],
    set: Annotated[list[str] | None, typer.Option(help="A setting to change, as name=value; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Do a run again, after checking that data, base model and tokenizer are still the same.

    On the same processor it ends with the same bytes; where it does not, you are told what else differs.
    """
    done = replay_run(run, parsed(set or []), lambda text: print(f"warning: {text}", file=sys.stderr))
    tables.print_json(done.as_dict()) if json else tables.show_run(done)


def _flat(entry: Entry) -> dict[str, Any]:
    """An entry with recipe and versions spread out, for reading and comparing."""
    value = entry.as_dict()
    recipe = {f"recipe {name}": item for name, item in entry.recipe.items() if name not in ("why", "model")}
    versions = {f"version {name}": item for name, item in entry.versions.items()}
    exports = {f"export {n}": history.export_line(e) for n, e in enumerate(entry.exports, 1)}
    plain = {name: item for name, item in value.items() if name not in ("recipe", "versions", "exports")}
    return plain | exports | recipe | versions


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
