"""The commands that look back: list-runs, show-run, diff-runs, replay, export-runs, errors."""

from __future__ import annotations

import csv
import difflib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bp_core.errors import ERRORS, BadValue, UnknownError
from bp_core.folders import new_file
from bp_core.units import duration, moment
from bp_runs import Entry, history
from bp_runs.summary import STATUSES

from ..models.targets import entry_of
from ..replay import parsed
from ..replay import replay as replay_run
from . import tables
from .options import NAME, Json, RunName, run_ids

_COLOURS = {"finished": "green", "failed": "red", "interrupted": "yellow", "running": "cyan", "paused": "cyan"}
# What tells where and when a run was, not what it is.
_OWN = ("id", "folder", "host", "pid", "pid_began", "started", "heartbeat", "exports", "recipe", "versions")
_MOMENTS = ("pid_began", "started", "heartbeat")


def list_runs(
    status: Annotated[
        str | None, typer.Option(help="Only these: running, paused, finished, failed or interrupted.")
    ] = None,
    json: Json = False,
) -> None:
    """List every run of this user, newest first, wherever its folder is."""
    if status and status not in STATUSES:
        raise BadValue(f"there is no status {status!r}; there are: {', '.join(STATUSES)}.")
    entries = [entry for entry in history.entries() if status in (None, entry.status_now())]
    if json:
        tables.print_json({"runs": [entry.as_dict() for entry in entries]})
        return
    table = Table("run", "status", "step", "loss", "time", "model", box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    for entry in entries:
        table.add_row(*_row(entry))
    Console().print(table if entries else "There are no runs.")


def show_run(run: RunName, json: Json = False) -> None:
    """Show all that the ledger knows of a run."""
    entry = entry_of(run)
    if json:
        tables.print_json(entry.as_dict())
        return
    for key, value in _flat(entry).items():
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
    table = Table("", a.id, b.id)
    for name in names:
        table.add_row(f"[bold]{name}[/]", escape(_text(left.get(name))), escape(_text(right.get(name))))
    Console().print(table if names else "These runs do not differ.")


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


def export_runs(
    format: Annotated[str, typer.Option(help="jsonl or csv.")] = "jsonl",
    output: Annotated[str | None, typer.Option(help="The file to write. Default: stdout.")] = None,
) -> None:
    """Write all runs as a table for other tools."""
    if format not in ("jsonl", "csv"):
        raise BadValue(f"there is no format {format!r}; there are: jsonl, csv.")
    rows = [entry.as_dict() for entry in history.entries()]
    lines = [json.dumps(row) + "\n" for row in rows]
    text = _csv(rows) if format == "csv" else "".join(lines)
    if output is None:
        sys.stdout.write(text)
        return
    if Path(output).exists():
        raise BadValue("this file exists already.", where=output, fix="Choose another --output.")
    with new_file(Path(output)) as draft:
        draft.write_text(text, encoding="utf-8", newline="")


def errors(
    code: Annotated[str | None, typer.Argument(help="Only this code.")] = None,
    json: Json = False,
) -> None:
    """Explain error codes and what to do about each."""
    if code and code.upper() not in ERRORS:
        near = difflib.get_close_matches(code.upper(), ERRORS, 1, cutoff=0.5)
        raise UnknownError(f"there is no error {code!r}" + (f"; did you mean {near[0]}?" if near else "."))
    found = {name: kind for name, kind in sorted(ERRORS.items()) if not code or name == code.upper()}
    told = [
        {"code": name, "exit": kind.exit_code, "what": kind.__doc__, "fix": kind.fix} for name, kind in found.items()
    ]
    if json:
        tables.print_json({"errors": told})
        return
    for error in told:
        print(f"{error['code']} (exit {error['exit']})\n  {error['what']}\n  fix: {error['fix']}\n")


def _row(entry: Entry) -> Iterator[str]:
    status = entry.status_now()
    yield entry.id
    yield f"[{_COLOURS.get(status, 'white')}]{status}[/]"
    yield f"{entry.step}/{entry.steps}"
    yield "" if entry.last_loss is None else f"{entry.first_loss:.3f} → {entry.last_loss:.3f}"
    yield duration(entry.seconds)
    yield escape(Path(entry.model).name)


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


def _csv(rows: list[dict[str, Any]]) -> str:
    """One line a run; what is nested stays JSON in its cell."""
    out = io.StringIO()
    names = list(rows[0]) if rows else list(Entry.__dataclass_fields__)
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        nested = {name: json.dumps(value) for name, value in row.items() if isinstance(value, dict | list | tuple)}
        writer.writerow(row | nested)
    return out.getvalue()
